-- The sessions, the latest renewed first, and what each holds, counted up to a bound.
-- Called by: adapters.postgres.diagnosis and adapters.postgres.inspection. Index: runs_owner, jobs_session.
-- $1 the bound, for sessions as for what they hold.
SELECT o.id::text AS id,
       o.info ->> 'name' AS name,
       o.info ->> 'hostname' AS hostname,
       (o.info ->> 'pid')::integer AS pid,
       o.renewed_at,
       o.lease,
       o.lease_expires_at,
       o.condemned_at,
       o.queues,
       k.ids AS workflow_ids,
       k.versions AS workflow_versions,
       (SELECT count(*) FROM (SELECT FROM leasehold.runs AS r WHERE r.owner = o.id LIMIT $1) AS counted) AS runs,
       (SELECT count(*) FROM (SELECT FROM leasehold.jobs AS j WHERE j.session = o.id LIMIT $1) AS counted) AS jobs,
       clock_timestamp() AS seen_at
FROM leasehold.sessions AS o
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(w.id ORDER BY w.workflow_key), '{}') AS ids,
           coalesce(array_agg(w.version ORDER BY w.workflow_key), '{}') AS versions
    FROM unnest(o.workflow_keys) AS known (workflow_key)
    JOIN leasehold.workflows AS w ON w.workflow_key = known.workflow_key
) AS k
ORDER BY o.renewed_at DESC
LIMIT $1
