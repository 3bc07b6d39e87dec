-- How late publishing is: runs whose news nobody has spread, and what each sink is owed and has refused.
-- Called by: adapters.postgres.diagnosis. Index: runs_publish, deliveries_due, dead_letters_sink_run_id_seq_key.
-- $1 the bound for counting. The first row, without a sink, is of what has not been spread; the others are by sink.
-- A delivery that is claimed is due when the claim ends.
SELECT NULL AS sink,
       count(*) AS owed,
       coalesce(extract(epoch FROM clock_timestamp() - min(r.publish_at)), 0)::double precision AS oldest_s,
       0 AS tries,
       NULL AS error,
       0::bigint AS dead,
       NULL AS dead_error
FROM (
    SELECT r.publish_at
    FROM leasehold.runs AS r
    WHERE r.publish_at IS NOT NULL AND r.publish_at <= statement_timestamp()
    ORDER BY r.publish_at
    LIMIT $1
) AS r
UNION ALL
SELECT k.name,
       d.owed,
       coalesce(extract(epoch FROM clock_timestamp() - d.oldest), 0)::double precision,
       d.tries,
       d.error,
       x.dead,
       x.dead_error
FROM leasehold.sinks AS k
CROSS JOIN LATERAL (
    SELECT count(*) AS owed,
           min(w.due_at) FILTER (WHERE w.due_at <= statement_timestamp()) AS oldest,
           coalesce(max(w.tries), 0) AS tries,
           (array_agg(w.error ORDER BY w.tries DESC) FILTER (WHERE w.error IS NOT NULL))[1] AS error
    FROM (
        SELECT d.due_at, d.tries, d.error
        FROM leasehold.deliveries AS d
        WHERE d.sink = k.name
        ORDER BY d.due_at
        LIMIT $1
    ) AS w
) AS d
CROSS JOIN LATERAL (
    SELECT count(*) AS dead, (array_agg(w.error))[1] AS dead_error
    FROM (SELECT l.error FROM leasehold.dead_letters AS l WHERE l.sink = k.name LIMIT $1) AS w
) AS x
ORDER BY sink NULLS FIRST
