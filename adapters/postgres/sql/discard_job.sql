-- Deletes a job that its run knows nothing of.
-- Called by: adapters.postgres.jobs. Index: jobs_pkey.
DELETE FROM leasehold.jobs AS j
WHERE j.run_id = $1 AND j.stage_id = $2 AND j.token = $3
RETURNING 1
