-- One page of heads that have not ended, newest first.
-- Called by: adapters.postgres.listings. Index: runs_owner, runs_claim, runs_parked, jobs_pkey: an active run is owned,
-- or will be claimed, or is parked, or waits on jobs. So the cost is that of what is active, not of what is finished.
-- $1 before this id, $2 from this id on, $3 the status to show, $4 created since or null, $5 how many,
-- $6 the workflow or null.
-- Each set of ids is found by itself: to unite them in their order the planner (17 and later) would else rather read all
-- runs by their ids, several times, and pass over those that have ended.
WITH owned AS MATERIALIZED (
    SELECT id FROM leasehold.runs WHERE owner IS NOT NULL
), waiting AS MATERIALIZED (
    SELECT id FROM leasehold.runs WHERE owner IS NULL AND wake_at IS NOT NULL
), parked AS MATERIALIZED (
    SELECT id FROM leasehold.runs WHERE parked_reason IS NOT NULL
), active AS MATERIALIZED (
    SELECT id FROM owned
    UNION
    SELECT id FROM waiting
    UNION
    SELECT id FROM parked
    UNION
    SELECT run_id FROM leasehold.jobs
)
SELECT
{head}
FROM active
JOIN leasehold.runs AS r ON r.id = active.id
JOIN leasehold.workflows AS w ON w.workflow_key = r.workflow_key
LEFT JOIN leasehold.sessions AS o ON o.id = r.owner
WHERE active.id < $1 AND active.id >= $2
  AND CASE r.phase WHEN 'suspended' THEN 'SUSPENDED' ELSE r.status END = $3
  AND ($4::timestamptz IS NULL OR r.created_at >= $4)
  AND ($6::text IS NULL OR w.id = $6)
ORDER BY r.id DESC
LIMIT $5
