-- Which server's which database this is, and which table of runs is in it.
-- Called by: adapters.postgres.joining, on our own connection and on somebody else's. Reads no table.
SELECT c.system_identifier, d.oid, to_regclass('leasehold.runs')::oid
FROM pg_control_system() AS c
CROSS JOIN pg_database AS d
WHERE d.datname = current_database()
