-- A run's head and its history after a sequence number, in one snapshot; one row per append, or one without an append.
-- Called by: adapters.postgres.reading (load). Index: runs_pkey, history_pkey, sessions_pkey.
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
FROM leasehold.runs AS r
JOIN leasehold.workflows AS w ON w.workflow_key = r.workflow_key
LEFT JOIN leasehold.sessions AS o ON o.id = r.owner
LEFT JOIN leasehold.history AS h ON h.run_id = r.id AND h.seq > $2
LEFT JOIN LATERAL (
    SELECT array_agg(body.key) AS names, array_agg(body.value::text) AS texts
    FROM json_each(h.bodies) AS body
) AS b ON $3
WHERE r.id = $1
ORDER BY h.seq
