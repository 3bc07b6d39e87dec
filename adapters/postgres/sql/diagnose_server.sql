-- The server, as a connection of ours finds it, and what the settings of the role are when nobody sets any.
-- Called by: adapters.postgres.diagnosis. Reads no table of ours.
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::integer AS version_number,
       current_setting('server_encoding') AS encoding,
       pg_is_in_recovery() AS in_recovery,
       current_setting('default_transaction_read_only')::boolean AS read_only,
       current_setting('autovacuum')::boolean AS autovacuum,
       current_setting('max_connections')::integer AS connections_max,
       (SELECT count(*) FROM pg_stat_activity AS a WHERE a.datname IS NOT NULL) AS connections,
       ARRAY (
           SELECT s.name::text
           FROM (
               VALUES ('statement_timeout', '0'), ('lock_timeout', '0'), ('idle_in_transaction_session_timeout', '0'),
                      ('synchronous_commit', 'off'), ('plan_cache_mode', 'auto'), ('jit', 'on')
           ) AS s (name, unfit)
           WHERE current_setting(s.name) = s.unfit
           ORDER BY s.name
       ) AS unfit_settings
