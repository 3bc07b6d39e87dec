-- Inserts or replaces definitions; those that are there unchanged are not touched.
-- Called by: adapters.postgres.workflows. Index: workflows_id_version_key.
INSERT INTO leasehold.workflows AS w (id, version, fingerprint, plan, description)
SELECT s.id, s.version, s.fingerprint, s.plan, s.description
FROM unnest($1::text[], $2::text[], $3::text[], $4::json[], $5::json[]) AS s (id, version, fingerprint, plan, description)
WHERE NOT EXISTS (
    SELECT FROM leasehold.workflows AS known
    WHERE known.id = s.id AND known.version = s.version AND known.fingerprint = s.fingerprint
      AND known.plan::text = s.plan::text AND known.description::text = s.description::text
)
ORDER BY s.id, s.version
ON CONFLICT (id, version) DO UPDATE
SET fingerprint = excluded.fingerprint,
    plan = excluded.plan,
    description = excluded.description,
    registered_at = clock_timestamp()
