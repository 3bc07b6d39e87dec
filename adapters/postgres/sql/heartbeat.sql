-- Everything periodic of a process, in one statement: renew, condemn, and what is new.
-- Called by: adapters.postgres.sessions (renew) and adapters.postgres.heartbeat. Index: sessions_pkey, runs_owner,
-- runs_claim, scheduled_commands_due, jobs_due, jobs_leased, jobs_session.
-- $1 the session, $2 whether to list all that it owns, $3 the claims' low-water mark, $4 the bound for counting,
-- $5 whether this connection holds the session's advisory lock (null: say nothing of it), $6 the newest format known,
-- $7 whether to look for processes that may be dead.
--
-- The row is locked before its lease is looked at. Otherwise a renewal that waited for somebody's lock would be judged
-- by the time at which it began to wait, and revive a lease that has ended since.
WITH own AS MATERIALIZED (
    SELECT id, lease, condemned_at, lease_expires_at, workflow_keys, queues
    FROM leasehold.sessions
    WHERE id = $1
    FOR NO KEY UPDATE
), alive AS MATERIALIZED (
    SELECT id, lease, workflow_keys, queues
    FROM own
    WHERE condemned_at IS NULL AND lease_expires_at > clock_timestamp()
), renewed AS (
    UPDATE leasehold.sessions AS o
    SET renewed_at = clock_timestamp(),
        lease_expires_at = clock_timestamp() + alive.lease,
        direct = coalesce($5, o.direct)
    FROM alive
    WHERE o.id = alive.id
), refused AS (
    UPDATE leasehold.sessions AS o
    SET refused_at = clock_timestamp()
    FROM own
    WHERE o.id = own.id AND own.condemned_at IS NOT NULL AND o.refused_at IS NULL
), expired AS MATERIALIZED (
    SELECT id
    FROM leasehold.sessions
    WHERE id <> $1 AND condemned_at IS NULL AND lease_expires_at < clock_timestamp()
    FOR NO KEY UPDATE SKIP LOCKED
), condemned AS (
    UPDATE leasehold.sessions AS o
    SET condemned_at = clock_timestamp()
    FROM expired
    WHERE o.id = expired.id AND o.condemned_at IS NULL AND o.lease_expires_at < clock_timestamp()
), absent AS MATERIALIZED (
    SELECT o.id, o.renewed_at
    FROM leasehold.sessions AS o
    WHERE $7 AND o.id <> $1 AND o.direct AND o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
      AND leasehold.session_lock(o.id) NOT IN (SELECT h.lock FROM leasehold.held_session_locks AS h)
), known AS MATERIALIZED (
    SELECT k.workflow_key
    FROM alive
    CROSS JOIN LATERAL unnest(alive.workflow_keys) AS k (workflow_key)
)
SELECT EXISTS (SELECT FROM alive) AS alive,
       ARRAY (SELECT r.id::text FROM leasehold.runs AS r WHERE r.owner = $1 AND r.attention) AS attention,
       CASE WHEN $2 THEN ARRAY (SELECT r.id::text FROM leasehold.runs AS r WHERE r.owner = $1 ORDER BY r.id) END
           AS owned_ids,
       CASE WHEN $2 THEN ARRAY (SELECT r.claim FROM leasehold.runs AS r WHERE r.owner = $1 ORDER BY r.id) END
           AS owned_claims,
       (
           SELECT count(*)
           FROM (
               SELECT
               FROM known
               CROSS JOIN generate_series(0, 9) AS p (priority)
               CROSS JOIN LATERAL (
                   SELECT
                   FROM leasehold.runs AS r
                   WHERE r.owner IS NULL AND r.wake_at IS NOT NULL
                     AND r.workflow_key = known.workflow_key AND r.priority = p.priority
                     AND r.wake_at >= $3 AND r.wake_at <= statement_timestamp()
                     AND r.format <= $6
                   LIMIT $4
               ) AS waiting
               LIMIT $4
           ) AS counted
       ) AS due,
       (
           SELECT count(*)
           FROM (
               SELECT
               FROM leasehold.sessions AS o
               CROSS JOIN known
               CROSS JOIN LATERAL (
                   SELECT
                   FROM leasehold.runs AS r
                   WHERE r.owner = o.id AND r.workflow_key = known.workflow_key AND r.format <= $6
                   LIMIT $4
               ) AS orphan
               WHERE o.condemned_at IS NOT NULL
               LIMIT $4
           ) AS counted
       ) AS orphans,
       (
           SELECT min(upcoming.wake_at)
           FROM known
           CROSS JOIN generate_series(0, 9) AS p (priority)
           CROSS JOIN LATERAL (
               SELECT r.wake_at
               FROM leasehold.runs AS r
               WHERE r.owner IS NULL AND r.wake_at IS NOT NULL
                 AND r.workflow_key = known.workflow_key AND r.priority = p.priority
                 AND r.wake_at > statement_timestamp()
               ORDER BY r.wake_at
               LIMIT 1
           ) AS upcoming
       ) AS next_due_at,
       (
           SELECT count(*)
           FROM leasehold.sessions AS o
           WHERE o.id <> $1 AND o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
       ) AS others,
       (
           SELECT min(waiting.due_at)
           FROM (
               SELECT '' AS id
               UNION
               SELECT w.id FROM known JOIN leasehold.workflows AS w ON w.workflow_key = known.workflow_key
           ) AS reach
           CROSS JOIN LATERAL (
               SELECT c.due_at
               FROM leasehold.scheduled_commands AS c
               WHERE c.workflow_id = reach.id AND c.state <> 'failed'
               ORDER BY c.due_at
               LIMIT 1
           ) AS waiting
       ) AS next_command_at,
       -- Of jobs only whether there are any: whoever hears of one takes as many as it has room for.
       EXISTS (
           SELECT
           FROM alive
           CROSS JOIN LATERAL unnest(alive.queues) AS q (queue)
           CROSS JOIN known
           CROSS JOIN generate_series(0, 9) AS p (priority)
           CROSS JOIN LATERAL (
               SELECT
               FROM leasehold.jobs AS j
               WHERE j.token IS NULL AND j.queue = q.queue AND j.workflow_key = known.workflow_key
                 AND j.priority = p.priority AND j.due_at <= statement_timestamp()
               LIMIT 1
           ) AS waiting
       ) AS jobs_due,
       (
           SELECT min(upcoming.due_at)
           FROM alive
           CROSS JOIN LATERAL unnest(alive.queues) AS q (queue)
           CROSS JOIN known
           CROSS JOIN generate_series(0, 9) AS p (priority)
           CROSS JOIN LATERAL (
               SELECT j.due_at
               FROM leasehold.jobs AS j
               WHERE j.token IS NULL AND j.queue = q.queue AND j.workflow_key = known.workflow_key
                 AND j.priority = p.priority AND j.due_at > statement_timestamp()
               ORDER BY j.due_at
               LIMIT 1
           ) AS upcoming
       ) AS next_job_at,
       EXISTS (
           SELECT
           FROM known
           JOIN leasehold.jobs AS j ON j.workflow_key = known.workflow_key
           WHERE j.lease_until < statement_timestamp()
       ) OR EXISTS (
           SELECT
           FROM leasehold.sessions AS o
           CROSS JOIN LATERAL (SELECT j.workflow_key FROM leasehold.jobs AS j WHERE j.session = o.id) AS j
           JOIN known ON known.workflow_key = j.workflow_key
           WHERE o.condemned_at IS NOT NULL
       ) AS jobs_lost,
       (SELECT alive.lease FROM alive) AS lease,
       -- Processes that were there and whose connection is not: dead, most likely. Only who holds a lock can miss it.
       CASE WHEN $7 THEN ARRAY (SELECT a.id::text FROM absent AS a ORDER BY a.id) END AS absent_ids,
       CASE WHEN $7 THEN ARRAY (SELECT a.renewed_at FROM absent AS a ORDER BY a.id) END AS absent_renewed,
       clock_timestamp() AS now
