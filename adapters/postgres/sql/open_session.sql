-- Begins a lease.
-- Called by: adapters.postgres.sessions.
INSERT INTO leasehold.sessions (id, lease, lease_expires_at, workflow_keys, info, queues)
VALUES ($1, $2, clock_timestamp() + $2, $3, $4, $5)
