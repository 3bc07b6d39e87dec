-- Runs that are due and that nobody has taken, by workflow, counted up to a bound.
-- Called by: adapters.postgres.diagnosis. Index: runs_claim, runs_owner.
-- $1 the bound for each priority of a workflow and each dead session, $2 the newest format known.
SELECT w.id AS workflow_id,
       w.version,
       b.due,
       b.newer,
       extract(epoch FROM clock_timestamp() - b.oldest)::double precision AS oldest_s,
       EXISTS (
           SELECT
           FROM leasehold.sessions AS o
           WHERE o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
             AND w.workflow_key = ANY (o.workflow_keys)
       ) AS known
FROM leasehold.workflows AS w
CROSS JOIN LATERAL (
    SELECT count(*) AS due, count(*) FILTER (WHERE waiting.format > $2) AS newer, min(waiting.since) AS oldest
    FROM (
        SELECT free.wake_at AS since, free.format
        FROM generate_series(0, 9) AS p (priority)
        CROSS JOIN LATERAL (
            SELECT r.wake_at, r.format
            FROM leasehold.runs AS r
            WHERE r.owner IS NULL AND r.wake_at IS NOT NULL
              AND r.workflow_key = w.workflow_key AND r.priority = p.priority
              AND r.wake_at <= statement_timestamp()
            ORDER BY r.wake_at
            LIMIT $1
        ) AS free
        UNION ALL
        -- Those of a condemned session, which metrics count as well: anybody may take them.
        SELECT o.condemned_at, orphan.format
        FROM leasehold.sessions AS o
        CROSS JOIN LATERAL (
            SELECT r.format
            FROM leasehold.runs AS r
            WHERE r.owner = o.id AND r.workflow_key = w.workflow_key
            LIMIT $1
        ) AS orphan
        WHERE o.condemned_at IS NOT NULL
    ) AS waiting
) AS b
WHERE b.due > 0
ORDER BY b.oldest
