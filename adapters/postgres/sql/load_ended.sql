-- Of these runs, those that do not exist and at most $2 of those that have ended, with their whole histories in one
-- snapshot; one row per append, runs one after the other. A run that goes on has no row.
-- Called by: adapters.postgres.reading (endings). Index: runs_pkey, history_pkey.
WITH found AS MATERIALIZED (
    SELECT wanted.id
    FROM unnest($1::uuid[]) AS wanted (id)
    LEFT JOIN leasehold.runs AS r ON r.id = wanted.id
    WHERE r.id IS NULL OR r.completed_at IS NOT NULL
    LIMIT $2
)
SELECT f.id::text AS wanted_id,
{head},
       h.first_seq AS row_first_seq,
       h.seq AS row_seq,
       h.append_id::text AS row_append_id,
       h.session::text AS row_session,
       h.at AS row_at,
       h.events AS row_events,
       b.names AS row_names,
       b.texts AS row_bodies
FROM found AS f
LEFT JOIN leasehold.runs AS r ON r.id = f.id
LEFT JOIN leasehold.workflows AS w ON w.workflow_key = r.workflow_key
LEFT JOIN leasehold.sessions AS o ON o.id = r.owner
LEFT JOIN leasehold.history AS h ON h.run_id = r.id
LEFT JOIN LATERAL (
    SELECT array_agg(body.key) AS names, array_agg(body.value::text) AS texts
    FROM json_each(h.bodies) AS body
) AS b ON true
ORDER BY f.id, h.seq
