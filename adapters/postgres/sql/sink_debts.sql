-- What the sinks have not taken of one run.
-- Called by: adapters.postgres.inspection. Index: deliveries_pkey, dead_letters_sink_run_id_seq_key.
-- $1 the run.
SELECT k.name AS sink, d.owed, d.due_at, d.tries, d.error, x.dead, x.dead_error
FROM leasehold.sinks AS k
CROSS JOIN LATERAL (
    SELECT coalesce(sum(d.last_seq - d.next_seq + 1), 0)::integer AS owed, min(d.due_at) AS due_at,
           coalesce(max(d.tries), 0) AS tries, (array_agg(d.error ORDER BY d.tries DESC))[1] AS error
    FROM leasehold.deliveries AS d
    WHERE d.run_id = $1 AND d.sink = k.name
) AS d
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS dead, (array_agg(l.error ORDER BY l.failed_at DESC))[1] AS dead_error
    FROM leasehold.dead_letters AS l
    WHERE l.sink = k.name AND l.run_id = $1
) AS x
WHERE d.owed > 0 OR x.dead > 0
ORDER BY k.name
