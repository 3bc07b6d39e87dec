-- Heads by id.
-- Called by: adapters.postgres.reading (heads). Index: runs_pkey.
SELECT
{head}
FROM unnest($1::uuid[]) AS wanted (id)
JOIN leasehold.runs AS r ON r.id = wanted.id
JOIN leasehold.workflows AS w ON w.workflow_key = r.workflow_key
LEFT JOIN leasehold.sessions AS o ON o.id = r.owner
