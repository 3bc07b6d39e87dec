-- The jobs of some runs: who holds them, and whether a process lives that would take them.
-- Called by: adapters.postgres.jobs. Index: jobs_pkey, sessions_pkey.
-- $1 the runs. Sessions are as few as there are processes.
SELECT j.run_id::text AS run_id, j.stage_id, j.queue, j.priority, j.due_at, j.token, j.session::text AS session_id,
       j.lease_until,
       coalesce(j.lease_until > clock_timestamp(), false) OR EXISTS (
           SELECT FROM leasehold.sessions AS o
           WHERE o.id = j.session AND o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
       ) AS held,
       EXISTS (
           SELECT FROM leasehold.sessions AS o
           WHERE o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
             AND j.queue = ANY (o.queues) AND j.workflow_key = ANY (o.workflow_keys)
       ) AS served
FROM leasehold.jobs AS j
WHERE j.run_id = ANY ($1::uuid[])
ORDER BY j.run_id, j.stage_id
