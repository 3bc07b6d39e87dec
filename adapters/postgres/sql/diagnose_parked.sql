-- Runs that wait for a human, by workflow and the word of the reason, counted up to a bound.
-- Called by: adapters.postgres.diagnosis. Index: runs_parked.
-- $1 the bound for each workflow.
SELECT w.id AS workflow_id,
       w.version,
       split_part(p.parked_reason, ':', 1) AS reason,
       count(*) AS runs,
       max(p.id::text) AS latest
FROM leasehold.workflows AS w
CROSS JOIN LATERAL (
    SELECT r.id, r.parked_reason
    FROM leasehold.runs AS r
    WHERE r.parked_reason IS NOT NULL AND r.workflow_key = w.workflow_key
    LIMIT $1
) AS p
GROUP BY 1, 2, 3
ORDER BY count(*) DESC
