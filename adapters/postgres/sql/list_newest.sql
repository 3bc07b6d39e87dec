-- One page of heads, newest first.
-- Called by: adapters.postgres.listings. Index: runs_pkey, read backwards and only as far as the page needs.
-- $1 before this id, $2 from this id on, $3 the status to show or null, $4 created since or null, $5 how many.
SELECT
{head}
FROM leasehold.runs AS r
JOIN leasehold.workflows AS w ON w.workflow_key = r.workflow_key
LEFT JOIN leasehold.sessions AS o ON o.id = r.owner
WHERE r.id < $1 AND r.id >= $2
  AND ($3::text IS NULL OR CASE r.phase WHEN 'suspended' THEN 'SUSPENDED' ELSE r.status END = $3)
  AND ($4::timestamptz IS NULL OR r.created_at >= $4)
ORDER BY r.id DESC
LIMIT $5
