-- Jobs that are due and that nobody has, by queue, counted up to a bound; and whether somebody serves the queue.
-- Called by: adapters.postgres.diagnosis. The table holds what waits or executes outside of its run's owner.
-- $1 the bound.
--
-- Nobody has it (any more) whose lease is over: it waits, from then on, for whoever takes note of that.
SELECT q.queue,
       count(*) AS due,
       count(*) FILTER (WHERE q.lost) AS lost,
       extract(epoch FROM clock_timestamp() - min(q.since))::double precision AS oldest_s,
       EXISTS (
           SELECT
           FROM leasehold.sessions AS o
           WHERE o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp() AND q.queue = ANY (o.queues)
       ) AS served
FROM (
    SELECT j.queue,
           j.token IS NOT NULL AS lost,
           -- A session that was closed has ended before its lease would have.
           coalesce(j.lease_until, least(o.condemned_at, o.lease_expires_at), j.due_at) AS since
    FROM leasehold.jobs AS j
    LEFT JOIN leasehold.sessions AS o ON o.id = j.session
    WHERE CASE
              WHEN j.token IS NULL THEN j.due_at <= statement_timestamp()
              WHEN j.session IS NULL THEN j.lease_until <= statement_timestamp()
              ELSE o.id IS NULL OR o.condemned_at IS NOT NULL OR o.lease_expires_at <= statement_timestamp()
          END
    LIMIT $1
) AS q
GROUP BY q.queue
ORDER BY min(q.since)
