-- Scheduled commands that can never succeed, and those that nobody has dispatched in time, counted up to a bound.
-- Called by: adapters.postgres.diagnosis. Index: scheduled_commands_due.
-- $1 the bound. Those that failed have no index: they are looked for when somebody asks, and at no other time.
SELECT (
           SELECT count(*)
           FROM (SELECT FROM leasehold.scheduled_commands AS c WHERE c.state = 'failed' LIMIT $1) AS counted
       ) AS failed,
       count(*) AS late,
       coalesce(extract(epoch FROM clock_timestamp() - min(d.due_at)), 0)::double precision AS oldest_s
FROM (
    SELECT '' AS id
    UNION
    SELECT w.id FROM leasehold.workflows AS w
) AS reach
CROSS JOIN LATERAL (
    SELECT c.due_at
    FROM leasehold.scheduled_commands AS c
    WHERE c.workflow_id = reach.id AND c.state <> 'failed' AND c.due_at <= statement_timestamp()
    ORDER BY c.due_at
    LIMIT $1
) AS d
