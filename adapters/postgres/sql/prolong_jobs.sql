-- Prolongs the leases of jobs that have a length, and tells which of the named ones are held.
-- Called by: adapters.postgres.jobs. Index: jobs_pkey.
-- $1 runs, $2 stages, $3 tokens, $4 how long from now on.
-- A row that is locked is being ended just now, by whoever holds it or by its run, and is passed over.
WITH held AS MATERIALIZED (
    SELECT s.place, s.run_id, s.stage_id, s.token
    FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS s (run_id, stage_id, token, place)
    WHERE EXISTS (
        SELECT FROM leasehold.jobs AS j
        WHERE j.run_id = s.run_id AND j.stage_id = s.stage_id AND j.token = s.token
    )
), locked AS MATERIALIZED (
    SELECT j.version
    FROM (SELECT run_id, stage_id, token FROM held ORDER BY run_id, stage_id) AS h
    CROSS JOIN LATERAL (
        SELECT j.ctid AS version
        FROM leasehold.jobs AS j
        WHERE j.run_id = h.run_id AND j.stage_id = h.stage_id AND j.token = h.token AND j.lease_until IS NOT NULL
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS j
), prolonged AS (
    UPDATE leasehold.jobs AS j
    SET lease_until = clock_timestamp() + $4::interval
    FROM locked AS l
    WHERE j.ctid = l.version
)
SELECT held.place::integer - 1 AS place
FROM held
