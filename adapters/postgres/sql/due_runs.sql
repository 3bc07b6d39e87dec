-- The runs that a claim for these workflows would take, which are left where they are.
-- Called by: adapters.postgres.claims (look_due). Index: runs_claim, runs_owner.
-- $1 the workflows, $2 how many, $3 the newest format known. The order is that of claim.sql.
WITH known AS MATERIALIZED (
    SELECT k.workflow_key
    FROM unnest($1::integer[]) AS k (workflow_key)
), orphans AS MATERIALIZED (
    SELECT orphan.id, NULL::timestamptz AS rank
    FROM leasehold.sessions AS o
    CROSS JOIN known
    CROSS JOIN LATERAL (
        SELECT r.id, r.priority
        FROM leasehold.runs AS r
        WHERE r.owner = o.id AND r.workflow_key = known.workflow_key AND r.format <= $3
          -- What has ended there is nothing to do with but to take it, for whoever takes runs.
          AND r.completed_at IS NULL
        LIMIT $2
    ) AS orphan
    WHERE o.condemned_at IS NOT NULL
    ORDER BY orphan.priority DESC, orphan.id
    LIMIT $2
), waiting AS MATERIALIZED (
    SELECT due.id, due.wake_at - p.priority * interval '10 seconds' AS rank
    FROM known
    CROSS JOIN generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT r.id, r.wake_at
        FROM leasehold.runs AS r
        WHERE r.owner IS NULL AND r.wake_at IS NOT NULL
          AND r.workflow_key = known.workflow_key AND r.priority = p.priority
          AND r.wake_at <= statement_timestamp()
          AND r.format <= $3
        ORDER BY r.wake_at
        LIMIT $2
    ) AS due
    ORDER BY rank
    LIMIT $2
)
SELECT picked.id::text
FROM (SELECT id, rank FROM orphans UNION ALL SELECT id, rank FROM waiting) AS picked
ORDER BY picked.rank NULLS FIRST
LIMIT $2
