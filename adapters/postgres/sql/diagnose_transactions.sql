-- Who keeps dead rows from being removed: open transactions of this database, prepared ones, and slots of replicas.
-- Called by: adapters.postgres.diagnosis. Reads no table of ours.
-- Of the connections of other roles only the members of pg_read_all_stats see more than that they are there.
SELECT 'connection' AS kind,
       a.pid,
       a.usename::text AS role,
       a.application_name AS name,
       a.query = '<insufficient privilege>' AS hidden,
       extract(epoch FROM clock_timestamp() - a.xact_start)::double precision AS open_s,
       CASE
           WHEN a.state LIKE 'idle in transaction%'
           THEN extract(epoch FROM clock_timestamp() - a.state_change)::double precision
       END AS idle_s,
       age(a.backend_xmin) AS xmin_age
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND ((a.backend_type = 'client backend' AND a.xact_start IS NOT NULL) OR a.query = '<insufficient privilege>')
UNION ALL
SELECT 'prepared transaction', NULL, p.owner::text, p.gid, false,
       extract(epoch FROM clock_timestamp() - p.prepared)::double precision, NULL, age(p.transaction)
FROM pg_prepared_xacts AS p
WHERE p.database = current_database()
UNION ALL
SELECT 'replication slot', s.active_pid, NULL, s.slot_name::text, false, NULL, NULL, age(s.xmin)
FROM pg_replication_slots AS s
WHERE s.xmin IS NOT NULL
ORDER BY xmin_age DESC NULLS LAST, open_s DESC NULLS LAST
LIMIT 1000
