-- The jobs of a run.
-- Called by: adapters.postgres.jobs. Index: jobs_pkey.
SELECT j.run_id::text AS run_id, j.stage_id, j.queue, j.priority, j.due_at, j.token, j.session::text AS session_id,
       j.lease_until
FROM leasehold.jobs AS j
WHERE j.run_id = $1
ORDER BY j.stage_id
