-- Heads between two ids, of one status, to which the statement adds the condition that its index has.
-- Used by the statements that say {page_of_heads}; the parameters are theirs.
SELECT
{head}
FROM leasehold.runs AS r
JOIN leasehold.workflows AS w ON w.workflow_key = r.workflow_key
LEFT JOIN leasehold.sessions AS o ON o.id = r.owner
WHERE r.id < $1 AND r.id >= $2
  AND r.status = $3
  AND ($4::timestamptz IS NULL OR r.created_at >= $4)
  AND ($6::text IS NULL OR w.id = $6)
