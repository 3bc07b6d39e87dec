-- Who we are, and what this role may not do that the engine has to.
-- Called by: adapters.postgres.diagnosis. Reads no table of ours.
-- Rows of a partition are reached through its table, whose privileges count.
SELECT o.rolname::text AS role,
       o.rolsuper AS superuser,
       n.oid IS NOT NULL AS has_schema,
       coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS may_use,
       coalesce(pg_has_role(n.nspowner, 'USAGE'), has_database_privilege(current_database(), 'CREATE')) AS may_migrate,
       ARRAY (
           SELECT p.privilege || ' on ' || c.relname
           FROM pg_class AS c
           CROSS JOIN LATERAL unnest(
               CASE
                   WHEN c.relkind = 'v' OR c.relname = 'migrations' THEN ARRAY['SELECT']
                   ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']
               END
           ) AS p (privilege)
           WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
             AND NOT has_table_privilege(c.oid, p.privilege)
           ORDER BY c.relname, p.privilege
       ) || ARRAY (
           SELECT 'EXECUTE on ' || f.proname
           FROM pg_proc AS f
           WHERE f.pronamespace = n.oid AND NOT has_function_privilege(f.oid, 'EXECUTE')
           ORDER BY f.proname
       ) AS missing
FROM pg_roles AS o
LEFT JOIN pg_namespace AS n ON n.oid = to_regnamespace('leasehold')
WHERE o.rolname = current_user
