-- Takes the advisory lock that says that a session's process lives; it is given back when the connection ends.
-- Called by: adapters.postgres.heartbeat.
SELECT pg_try_advisory_lock(leasehold.session_lock($1))
