-- A run's log lines after an id.
-- Called by: adapters.postgres.logs. Index: logs_run.
SELECT id, stage_id, execution, attempt, at, level, message, fields
FROM leasehold.logs
WHERE run_id = $1 AND id > $2
ORDER BY id
LIMIT $3
