-- Takes one particular job that waits and is due, or tells that it is taken under this token already.
-- Called by: adapters.postgres.jobs. Index: jobs_pkey, runs_pkey, sessions_pkey.
-- $1 the run, $2 the stage, $3 the token, $4 the session that holds it or null, $5 how long it is held without one,
-- $6 the newest format known.
WITH allowed AS MATERIALIZED (
    SELECT $4::uuid IS NULL OR EXISTS (
        SELECT FROM leasehold.sessions AS o
        WHERE o.id = $4 AND o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
    ) AS alive
), taken AS (
    UPDATE leasehold.jobs AS j
    SET token = $3,
        session = CASE WHEN j.token IS NULL THEN $4 ELSE j.session END,
        lease_until = CASE
            WHEN j.token IS NOT NULL THEN j.lease_until
            WHEN $4::uuid IS NULL THEN clock_timestamp() + $5::interval
        END
    FROM allowed
    WHERE allowed.alive
      AND j.run_id = $1 AND j.stage_id = $2
      AND (j.token = $3 OR (j.token IS NULL AND j.due_at <= statement_timestamp()))
      AND (SELECT r.parked_reason IS NULL AND r.format <= $6 FROM leasehold.runs AS r WHERE r.id = $1)
    RETURNING j.run_id, j.stage_id, j.token, j.queue, j.polls, j.lost
)
SELECT allowed.alive, t.run_id::text AS run_id, t.stage_id, t.token, t.queue, t.polls, t.lost
FROM allowed
LEFT JOIN taken AS t ON true
