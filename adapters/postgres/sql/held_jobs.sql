-- The jobs that a session has taken.
-- Called by: adapters.postgres.jobs. Index: jobs_session.
SELECT j.run_id::text AS run_id, j.stage_id, j.token, j.queue, j.polls, j.lost
FROM leasehold.jobs AS j
WHERE j.session = $1
ORDER BY j.run_id, j.stage_id
