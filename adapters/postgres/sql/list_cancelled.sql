-- One page of heads of cancelled runs, newest first.
-- Called by: adapters.postgres.listings. Index: runs_cancelled, read backwards.
-- $1 before this id, $2 from this id on, $3 the status to show, $4 created since or null, $5 how many,
-- $6 the workflow or null.
SELECT
{head}
FROM leasehold.runs AS r
JOIN leasehold.workflows AS w ON w.workflow_key = r.workflow_key
LEFT JOIN leasehold.sessions AS o ON o.id = r.owner
WHERE r.cancelled IS NOT NULL
  AND r.id < $1 AND r.id >= $2
  AND r.status = $3
  AND ($4::timestamptz IS NULL OR r.created_at >= $4)
  AND ($6::text IS NULL OR w.id = $6)
ORDER BY r.id DESC
LIMIT $5
