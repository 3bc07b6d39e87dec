-- What creating a batch of runs costs at least: one head and one history row each, if the session is live.
-- Called by: adapters.postgres.bare_limit. Index: runs_pkey, sessions_pkey.
WITH sent AS (
    SELECT *
    FROM unnest($4::text::uuid[], $5::text::uuid[], $6::json[], $7::json[]) AS t (run_id, append_id, events, bodies)
    WHERE EXISTS (
        SELECT FROM leasehold.sessions AS o
        WHERE o.id = $1 AND o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
    )
), headed AS (
    INSERT INTO leasehold.runs (
        id, owner, claim, created_at, updated_at, started_at, workflow_key, seq, format, priority, status, phase,
        fingerprint
    )
    SELECT run_id, $1, 0, clock_timestamp(), clock_timestamp(), clock_timestamp(), $2, $3, 1, 5, 'RUNNING', 'running',
           'bare'
    FROM sent
), recorded AS (
    INSERT INTO leasehold.history (run_id, append_id, session, at, seq, first_seq, events, bodies)
    SELECT run_id, append_id, $1, clock_timestamp(), $3, 1, events, bodies
    FROM sent
)
SELECT count(*) FROM sent
