-- Runs that have waited long for a process that knows their workflow, while none did; longest first.
-- Called by: adapters.postgres.repairs, when a grace is set. Index: runs_claim, runs_owner.
-- $1 the grace, $2 how many. Who knew a workflow is remembered for as long as the sessions' rows are there.
WITH known AS MATERIALIZED (
    SELECT DISTINCT k.workflow_key
    FROM leasehold.sessions AS o
    CROSS JOIN LATERAL unnest(o.workflow_keys) AS k (workflow_key)
    WHERE o.lease_expires_at > clock_timestamp() - $1::interval
), unknown AS MATERIALIZED (
    SELECT w.workflow_key
    FROM leasehold.workflows AS w
    WHERE NOT EXISTS (SELECT FROM known AS k WHERE k.workflow_key = w.workflow_key)
), waiting AS MATERIALIZED (
    SELECT due.id, due.wake_at
    FROM unknown
    CROSS JOIN generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT r.id, r.wake_at
        FROM leasehold.runs AS r
        WHERE r.owner IS NULL AND r.wake_at IS NOT NULL
          AND r.workflow_key = unknown.workflow_key AND r.priority = p.priority
          AND r.wake_at <= statement_timestamp() - $1::interval
        ORDER BY r.wake_at
        LIMIT $2
    ) AS due
), orphans AS MATERIALIZED (
    SELECT orphan.id, NULL::timestamptz AS wake_at
    FROM leasehold.sessions AS o
    CROSS JOIN unknown
    CROSS JOIN LATERAL (
        SELECT r.id
        FROM leasehold.runs AS r
        WHERE r.owner = o.id AND r.workflow_key = unknown.workflow_key AND r.completed_at IS NULL
        LIMIT $2
    ) AS orphan
    WHERE o.condemned_at IS NOT NULL AND o.lease_expires_at <= clock_timestamp() - $1::interval
)
SELECT late.id::text
FROM (SELECT id, wake_at FROM orphans UNION ALL SELECT id, wake_at FROM waiting) AS late
ORDER BY late.wake_at NULLS FIRST
LIMIT $2
