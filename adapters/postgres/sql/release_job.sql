-- Makes a job available again of which nothing was recorded.
-- Called by: adapters.postgres.jobs. Index: jobs_pkey.
-- $1 the run, $2 the stage, $3 the token, $4 not before so long from now on, or null: as it was.
UPDATE leasehold.jobs AS j
SET token = NULL,
    session = NULL,
    lease_until = NULL,
    due_at = greatest(j.due_at, clock_timestamp() + $4::interval)
WHERE j.run_id = $1 AND j.stage_id = $2 AND j.token = $3
RETURNING 1
