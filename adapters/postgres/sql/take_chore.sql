-- Gives a chore to whoever asks first after its time, and sets its next time.
-- Called by: adapters.postgres.repairs. Index: maintenance_pkey.
-- $1 the chore, $2 the session, $3 how often.
INSERT INTO leasehold.maintenance AS m (name, next_at, session)
VALUES ($1, clock_timestamp() + $3::interval, $2)
ON CONFLICT (name) DO UPDATE SET next_at = excluded.next_at, session = excluded.session
WHERE m.next_at <= clock_timestamp()
RETURNING m.name
