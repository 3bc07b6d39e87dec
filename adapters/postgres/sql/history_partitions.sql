-- The partitions of history, with their bounds, and whether one is half detached.
-- Called by: adapters.postgres.partitions.
SELECT c.relname::text AS name,
       pg_get_expr(c.relpartbound, c.oid) AS bound,
       i.inhdetachpending AS detaching
FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'leasehold.history'::regclass
