-- One page of the heads of a workflow, in all its versions, newest first.
-- Called by: adapters.postgres.listings. Index: runs_workflow, read backwards once per version.
-- Compared as pairs, because the planner would else read all runs backwards by their ids and pass over the others'.
-- $1 before this id, $2 from this id on, $3 the status to show or null, $4 created since or null, $5 how many,
-- $6 the workflow.
SELECT
{head}
FROM leasehold.workflows AS w
CROSS JOIN LATERAL (
    SELECT *
    FROM leasehold.runs AS r
    WHERE r.workflow_key > 0
      AND (r.workflow_key, r.id) < (w.workflow_key, $1)
      AND (r.workflow_key, r.id) >= (w.workflow_key, $2)
      AND ($3::text IS NULL OR CASE r.phase WHEN 'suspended' THEN 'SUSPENDED' ELSE r.status END = $3)
      AND ($4::timestamptz IS NULL OR r.created_at >= $4)
    ORDER BY r.workflow_key DESC, r.id DESC
    LIMIT $5
) AS r
LEFT JOIN leasehold.sessions AS o ON o.id = r.owner
WHERE w.id = $6
ORDER BY r.id DESC
LIMIT $5
