-- Dead rows of our tables, and at how many of them autovacuum begins, as the server reckons it.
-- Called by: adapters.postgres.diagnosis. Reads no table of ours.
SELECT c.relname::text AS name,
       t.n_live_tup AS live,
       t.n_dead_tup AS dead,
       o.threshold + o.scale_factor * greatest(c.reltuples, 0) AS due_at,
       o.enabled,
       extract(epoch FROM clock_timestamp() - greatest(t.last_autovacuum, t.last_vacuum))::double precision AS vacuumed_s,
       pg_total_relation_size(c.oid) AS size_bytes
FROM pg_class AS c
JOIN pg_stat_all_tables AS t ON t.relid = c.oid
CROSS JOIN LATERAL (
    SELECT coalesce(
               (max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_threshold')),
               current_setting('autovacuum_vacuum_threshold')
           )::double precision AS threshold,
           coalesce(
               (max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_scale_factor')),
               current_setting('autovacuum_vacuum_scale_factor')
           )::double precision AS scale_factor,
           coalesce((max(option_value) FILTER (WHERE option_name = 'autovacuum_enabled')), 'on')::boolean AS enabled
    FROM pg_options_to_table(c.reloptions)
) AS o
WHERE c.relnamespace = to_regnamespace('leasehold') AND c.relkind = 'r'
ORDER BY c.relname
