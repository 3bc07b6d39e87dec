-- Active runs that nothing will move: neither owned, due nor parked, and without a job; or of an owner that is no session.
-- Called by: adapters.postgres.repairs. Index: runs_idle, jobs_pkey, runs_owner, sessions_pkey.
-- $1 after this id, or null to begin; $2 how many idle heads to pass over at most, and how many to find of each owner;
-- $3 the longest history that is allowed to runs which only jobs move.
--
-- Owners are found one by one, each by the next entry of the index: there are as many as processes, and each may own
-- thousands of runs. They are looked at once, with the first page.
WITH RECURSIVE idle AS MATERIALIZED (
    SELECT r.id, r.seq
    FROM leasehold.runs AS r
    WHERE r.owner IS NULL AND r.wake_at IS NULL AND r.parked_reason IS NULL AND r.completed_at IS NULL
      AND r.id > coalesce($1::uuid, '00000000-0000-0000-0000-000000000000')
    ORDER BY r.id
    LIMIT $2
), owners AS (
    (
        SELECT r.owner FROM leasehold.runs AS r
        WHERE r.owner IS NOT NULL AND $1::uuid IS NULL
        ORDER BY r.owner
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT r.owner FROM leasehold.runs AS r
        WHERE r.owner IS NOT NULL AND r.owner > o.owner
        ORDER BY r.owner
        LIMIT 1
    )
    FROM owners AS o
    WHERE o.owner IS NOT NULL
), strangers AS MATERIALIZED (
    SELECT o.owner
    FROM owners AS o
    WHERE o.owner IS NOT NULL AND NOT EXISTS (SELECT FROM leasehold.sessions AS s WHERE s.id = o.owner)
), stuck AS (
    SELECT i.id
    FROM idle AS i
    WHERE i.seq > $3
       OR NOT EXISTS (SELECT FROM leasehold.jobs AS j WHERE j.run_id = i.id)
    UNION ALL
    SELECT lost.id
    FROM strangers
    CROSS JOIN LATERAL (
        SELECT r.id
        FROM leasehold.runs AS r
        WHERE r.owner = strangers.owner AND r.parked_reason IS NULL AND r.completed_at IS NULL
        LIMIT $2
    ) AS lost
)
SELECT ARRAY (SELECT s.id::text FROM stuck AS s ORDER BY s.id) AS ids,
       CASE WHEN (SELECT count(*) FROM idle) = $2 THEN (SELECT max(i.id::text) FROM idle AS i) END AS next
