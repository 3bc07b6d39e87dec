-- A job that is leased under this very token, of a run that is neither parked nor too new.
-- Called by: adapters.postgres.jobs. Index: jobs_pkey, runs_pkey.
-- $1 the run, $2 the stage, $3 the token, $4 the newest format known.
-- The lease is left as it is: whoever asks may only have received a message twice, and its holder may be dead.
SELECT j.run_id::text AS run_id, j.stage_id, j.token, j.queue, j.polls, j.lost
FROM leasehold.jobs AS j
JOIN leasehold.runs AS r ON r.id = j.run_id
WHERE j.run_id = $1 AND j.stage_id = $2 AND j.token = $3
  AND r.parked_reason IS NULL AND r.format <= $4
