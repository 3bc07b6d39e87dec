-- A definition as last registered.
-- Called by: adapters.postgres.workflows. Index: workflows_id_version_key.
SELECT workflow_key, fingerprint, plan, description
FROM leasehold.workflows
WHERE id = $1 AND version = $2
