-- Jobs that are due and that nobody has taken, by queue, counted up to a bound; and whether somebody serves the queue.
-- Called by: adapters.postgres.diagnosis. The table holds what waits or executes outside of its run's owner.
-- $1 the bound.
SELECT q.queue,
       count(*) AS due,
       extract(epoch FROM clock_timestamp() - min(q.due_at))::double precision AS oldest_s,
       EXISTS (
           SELECT
           FROM leasehold.sessions AS o
           WHERE o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp() AND q.queue = ANY (o.queues)
       ) AS served
FROM (
    SELECT j.queue, j.due_at
    FROM leasehold.jobs AS j
    WHERE j.token IS NULL AND j.due_at <= statement_timestamp()
    LIMIT $1
) AS q
GROUP BY q.queue
ORDER BY min(q.due_at)
