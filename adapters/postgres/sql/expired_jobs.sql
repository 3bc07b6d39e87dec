-- Takes over jobs whose lease has ended: its time is up, or its session is condemned. At most one per token.
-- Called by: adapters.postgres.jobs. Index: jobs_leased, jobs_session, jobs_pkey.
-- $1 the tokens, $2 the known workflows, $3 for how long.
-- A row that is locked is being prolonged, ended or taken just now.
WITH ended AS MATERIALIZED (
    SELECT late.run_id, late.stage_id
    FROM (
        SELECT j.run_id, j.stage_id
        FROM leasehold.jobs AS j
        WHERE j.lease_until < statement_timestamp() AND j.workflow_key = ANY ($2::integer[])
        ORDER BY j.lease_until
        LIMIT cardinality($1::text[])
    ) AS late
    UNION ALL
    SELECT orphan.run_id, orphan.stage_id
    FROM leasehold.sessions AS o
    CROSS JOIN LATERAL (
        SELECT j.run_id, j.stage_id
        FROM leasehold.jobs AS j
        WHERE j.session = o.id AND j.workflow_key = ANY ($2::integer[])
        LIMIT cardinality($1::text[])
    ) AS orphan
    WHERE o.condemned_at IS NOT NULL
), locked AS MATERIALIZED (
    SELECT j.version, j.token, j.session, row_number() OVER () AS place
    FROM (
        SELECT j.version, j.token, j.session
        FROM (SELECT run_id, stage_id FROM ended ORDER BY run_id, stage_id) AS e
        CROSS JOIN LATERAL (
            SELECT j.ctid AS version, j.token, j.session
            FROM leasehold.jobs AS j
            WHERE j.run_id = e.run_id AND j.stage_id = e.stage_id
              AND (
                  j.lease_until < clock_timestamp()
                  OR EXISTS (SELECT FROM leasehold.sessions AS o WHERE o.id = j.session AND o.condemned_at IS NOT NULL)
              )
            FOR UPDATE SKIP LOCKED
        ) AS j
        LIMIT cardinality($1::text[])
    ) AS j
)
UPDATE leasehold.jobs AS j
SET token = ($1::text[])[l.place::integer],
    session = NULL,
    lease_until = clock_timestamp() + $3::interval
FROM locked AS l
WHERE j.ctid = l.version
RETURNING j.run_id::text AS run_id, j.stage_id, j.token, j.queue, j.polls, j.lost,
          l.token AS previous_token, l.session::text AS previous_session
