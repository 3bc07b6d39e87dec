-- Takes the due jobs that come first out of their queues, at most one per token.
-- Called by: adapters.postgres.jobs. Index: jobs_due, jobs_pkey, runs_pkey, sessions_pkey.
-- $1 the tokens, $2 the session that holds them or null, $3 how long they are held without one, $4 the queues, $5 the
-- known workflows, $6 the newest format known, $7 how many to look at: more than are wanted, for others take them too.
--
-- The order is that of claims: due_at less ten seconds per step of priority. Nobody is waited for, so the order of
-- locking does not matter.
WITH allowed AS MATERIALIZED (
    SELECT $2::uuid IS NULL OR EXISTS (
        SELECT FROM leasehold.sessions AS o
        WHERE o.id = $2 AND o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
    ) AS alive
), picked AS MATERIALIZED (
    SELECT due.run_id, due.stage_id, due.rank
    FROM allowed
    CROSS JOIN unnest($4::text[]) AS q (queue)
    CROSS JOIN unnest($5::integer[]) AS k (workflow_key)
    CROSS JOIN generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT j.run_id, j.stage_id, j.due_at - p.priority * interval '10 seconds' AS rank
        FROM leasehold.jobs AS j
        WHERE j.token IS NULL AND j.queue = q.queue AND j.workflow_key = k.workflow_key AND j.priority = p.priority
          AND j.due_at <= statement_timestamp()
          -- Not EXISTS, of which a join over all runs can be made.
          AND (SELECT r.parked_reason IS NULL AND r.format <= $6 FROM leasehold.runs AS r WHERE r.id = j.run_id)
        ORDER BY j.due_at
        LIMIT $7
    ) AS due
    WHERE allowed.alive
    ORDER BY due.rank, due.run_id, due.stage_id
    LIMIT $7
), locked AS MATERIALIZED (
    SELECT j.version, row_number() OVER () AS place
    FROM (
        SELECT j.version
        FROM (SELECT run_id, stage_id FROM picked ORDER BY rank, run_id, stage_id) AS p
        CROSS JOIN LATERAL (
            SELECT j.ctid AS version
            FROM leasehold.jobs AS j
            WHERE j.run_id = p.run_id AND j.stage_id = p.stage_id
              -- Not IS NULL, which would let jobs_due be taken for as good as the primary key.
              AND coalesce(j.token, '') = '' AND j.due_at <= statement_timestamp()
            FOR UPDATE SKIP LOCKED
        ) AS j
        LIMIT cardinality($1::text[])
    ) AS j
), taken AS (
    UPDATE leasehold.jobs AS j
    SET token = ($1::text[])[l.place::integer],
        session = $2,
        lease_until = CASE WHEN $2::uuid IS NULL THEN clock_timestamp() + $3::interval END
    FROM locked AS l
    WHERE j.ctid = l.version
    RETURNING j.run_id, j.stage_id, j.token, j.queue, j.polls, j.lost, l.place
)
SELECT allowed.alive,
       (SELECT count(*) FROM picked) AS picked,
       t.run_id::text AS run_id, t.stage_id, t.token, t.queue, t.polls, t.lost
FROM allowed
LEFT JOIN taken AS t ON true
ORDER BY t.place
