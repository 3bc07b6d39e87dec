-- What waits in the whole database: due runs by workflow, events that are not published, dead letters.
-- Called by: adapters.postgres.listings (backlog), now and then, by processes whose metrics somebody reads.
-- Index: runs_claim, runs_owner, runs_publish, deliveries_due, dead_letters_pkey. $1 how far to count.
--
-- By workflow and priority, as a claim looks, so that the oldest of each is the first entry of its part of the index.
WITH live AS MATERIALIZED (
    SELECT DISTINCT k.workflow_key
    FROM leasehold.sessions AS o
    CROSS JOIN LATERAL unnest(o.workflow_keys) AS k (workflow_key)
    WHERE o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
), due AS MATERIALIZED (
    SELECT w.workflow_key, count(*) AS runs, min(waiting.wake_at) AS oldest
    FROM leasehold.workflows AS w
    CROSS JOIN generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT r.wake_at
        FROM leasehold.runs AS r
        WHERE r.owner IS NULL AND r.wake_at IS NOT NULL
          AND r.workflow_key = w.workflow_key AND r.priority = p.priority
          AND r.wake_at <= statement_timestamp()
        ORDER BY r.wake_at
        LIMIT $1
    ) AS waiting
    GROUP BY w.workflow_key
), orphans AS MATERIALIZED (
    -- How long they have been due, nobody has written down: since their session was condemned.
    SELECT orphan.workflow_key, count(*) AS runs, min(o.condemned_at) AS oldest
    FROM leasehold.sessions AS o
    CROSS JOIN LATERAL (
        SELECT r.workflow_key
        FROM leasehold.runs AS r
        WHERE r.owner = o.id
        LIMIT $1
    ) AS orphan
    WHERE o.condemned_at IS NOT NULL
    GROUP BY orphan.workflow_key
), runnable AS MATERIALIZED (
    SELECT w.id AS workflow_id, sum(found.runs)::bigint AS runs, min(found.oldest) AS oldest,
           coalesce(sum(found.runs) FILTER (WHERE live.workflow_key IS NULL), 0)::bigint AS unknown
    FROM (SELECT workflow_key, runs, oldest FROM due UNION ALL SELECT workflow_key, runs, oldest FROM orphans) AS found
    JOIN leasehold.workflows AS w ON w.workflow_key = found.workflow_key
    LEFT JOIN live ON live.workflow_key = found.workflow_key
    GROUP BY w.id
)
SELECT ARRAY (SELECT workflow_id FROM runnable ORDER BY workflow_id) AS workflow_ids,
       ARRAY (SELECT runs FROM runnable ORDER BY workflow_id) AS runs,
       (SELECT sum(unknown)::bigint FROM runnable) AS unknown,
       statement_timestamp() - (SELECT min(oldest) FROM runnable) AS oldest_age,
       statement_timestamp() - least(
           (
               SELECT r.publish_at
               FROM leasehold.runs AS r
               WHERE r.publish_at IS NOT NULL AND r.publish_at <= statement_timestamp()
               ORDER BY r.publish_at
               LIMIT 1
           ),
           (
               SELECT min(owed.due_at)
               FROM leasehold.sinks AS k
               CROSS JOIN LATERAL (
                   SELECT d.due_at
                   FROM leasehold.deliveries AS d
                   WHERE d.sink = k.name AND d.due_at <= statement_timestamp()
                   ORDER BY d.due_at
                   LIMIT 1
               ) AS owed
           )
       ) AS outbox_lag,
       (
           SELECT count(*)
           FROM (SELECT FROM leasehold.dead_letters AS l ORDER BY l.id LIMIT 10 * $1) AS counted
       ) AS dead_letters
