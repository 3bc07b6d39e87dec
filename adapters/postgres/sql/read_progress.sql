-- The last report of progress of each stage of a run.
-- Called by: adapters.postgres.logs. Index: logs_progress, which has the reports only.
SELECT DISTINCT ON (stage_id) id, stage_id, execution, attempt, at, level, message, fields
FROM leasehold.logs
WHERE run_id = $1 AND level = 'PROGRESS' AND stage_id IS NOT NULL
ORDER BY stage_id, id DESC
