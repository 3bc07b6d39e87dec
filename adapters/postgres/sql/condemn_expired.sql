-- Condemns sessions whose lease has ended, longest ago first.
-- Called by: adapters.postgres.sessions (condemn_expired). The table is as small as the number of processes.
-- A row that is locked is being renewed or condemned just now; the condition is checked on what the lock was got for.
WITH locked AS MATERIALIZED (
    SELECT id
    FROM leasehold.sessions
    WHERE condemned_at IS NULL AND lease_expires_at < clock_timestamp()
    ORDER BY lease_expires_at
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE leasehold.sessions AS o
SET condemned_at = clock_timestamp()
FROM locked
WHERE o.id = locked.id AND o.condemned_at IS NULL AND o.lease_expires_at < clock_timestamp()
RETURNING o.id::text
