-- The short keys of definitions.
-- Called by: adapters.postgres.workflows. Index: workflows_id_version_key.
SELECT w.id, w.version, w.workflow_key
FROM unnest($1::text[], $2::text[]) AS s (id, version)
JOIN leasehold.workflows AS w ON w.id = s.id AND w.version = s.version
