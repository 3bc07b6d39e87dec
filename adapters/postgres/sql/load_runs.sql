-- Heads and whole histories of runs that were just taken; one row per append, runs one after the other.
-- Called by: adapters.postgres.claims. Index: runs_pkey, history_pkey.
SELECT
{head},
       h.first_seq AS row_first_seq,
       h.seq AS row_seq,
       h.append_id::text AS row_append_id,
       h.session::text AS row_session,
       h.at AS row_at,
       h.events AS row_events,
       b.names AS row_names,
       b.texts AS row_bodies
FROM unnest($1::uuid[]) AS wanted (id)
JOIN leasehold.runs AS r ON r.id = wanted.id
JOIN leasehold.workflows AS w ON w.workflow_key = r.workflow_key
LEFT JOIN leasehold.sessions AS o ON o.id = r.owner
JOIN leasehold.history AS h ON h.run_id = wanted.id
LEFT JOIN LATERAL (
    SELECT array_agg(body.key) AS names, array_agg(body.value::text) AS texts
    FROM json_each(h.bodies) AS body
) AS b ON true
ORDER BY r.id, h.seq
