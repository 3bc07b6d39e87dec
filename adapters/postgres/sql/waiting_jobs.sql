-- Jobs that are due and that nobody has, by queue: not taken, or taken by somebody whose lease is over.
-- Called by: adapters.postgres.listings (backlog), now and then, by processes whose metrics somebody reads.
-- Index: jobs_due, jobs_leased, jobs_session, runs_parked. $1 how far to count in a queue, a workflow and a priority.
--
-- Which of these there are is found by going from the first entry of one to the first of the next in the index.
WITH RECURSIVE kinds AS (
    (
        SELECT j.queue, j.workflow_key, j.priority
        FROM leasehold.jobs AS j
        WHERE j.token IS NULL
        ORDER BY j.queue, j.workflow_key, j.priority
        LIMIT 1
    )
    UNION ALL
    SELECT next.queue, next.workflow_key, next.priority
    FROM kinds AS k
    CROSS JOIN LATERAL (
        SELECT j.queue, j.workflow_key, j.priority
        FROM leasehold.jobs AS j
        WHERE j.token IS NULL AND (j.queue, j.workflow_key, j.priority) > (k.queue, k.workflow_key, k.priority)
        ORDER BY j.queue, j.workflow_key, j.priority
        LIMIT 1
    ) AS next
), parked AS MATERIALIZED (
    -- Runs that are set aside, whose jobs nobody takes; looked up once, and not for each job.
    SELECT r.id
    FROM leasehold.runs AS r
    WHERE r.parked_reason IS NOT NULL
    LIMIT 100 * $1
), waiting AS (
    SELECT k.queue, due.due_at AS since
    FROM kinds AS k
    CROSS JOIN LATERAL (
        SELECT free.run_id, free.due_at
        FROM (
            SELECT j.run_id, j.due_at
            FROM leasehold.jobs AS j
            WHERE j.token IS NULL AND j.queue = k.queue AND j.workflow_key = k.workflow_key AND j.priority = k.priority
              AND j.due_at <= statement_timestamp()
            ORDER BY j.due_at
            LIMIT 10 * $1
        ) AS free
        WHERE free.run_id NOT IN (SELECT p.id FROM parked AS p)
        LIMIT $1
    ) AS due
    UNION ALL
    (
        SELECT j.queue, j.lease_until
        FROM leasehold.jobs AS j
        WHERE j.lease_until <= statement_timestamp()
        ORDER BY j.lease_until
        LIMIT $1
    )
    UNION ALL
    SELECT orphan.queue, least(o.condemned_at, o.lease_expires_at)
    FROM leasehold.sessions AS o
    CROSS JOIN LATERAL (
        SELECT j.queue
        FROM leasehold.jobs AS j
        WHERE j.session = o.id
        LIMIT $1
    ) AS orphan
    WHERE o.condemned_at IS NOT NULL OR o.lease_expires_at <= statement_timestamp()
)
SELECT w.queue, count(*) AS jobs, statement_timestamp() - min(w.since) AS oldest_age
FROM waiting AS w
GROUP BY w.queue
