-- The definitions that some live session knows.
-- Called by: adapters.postgres.listings. Index: workflows_pkey.
SELECT DISTINCT w.id, w.version
FROM leasehold.sessions AS o
CROSS JOIN LATERAL unnest(o.workflow_keys) AS known (workflow_key)
JOIN leasehold.workflows AS w ON w.workflow_key = known.workflow_key
WHERE o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
ORDER BY w.id, w.version
