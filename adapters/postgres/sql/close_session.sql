-- Ends a lease before its time.
-- Called by: adapters.postgres.sessions. Index: sessions_pkey.
UPDATE leasehold.sessions
SET condemned_at = clock_timestamp()
WHERE id = $1 AND condemned_at IS NULL
