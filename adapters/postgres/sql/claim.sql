-- Takes due runs for a session: those of condemned sessions in place, then those that nobody owns.
-- Called by: adapters.postgres.claims. Index: runs_claim, runs_owner, runs_pkey, sessions_pkey.
-- $1 the session, $2 how many, $3 the low-water mark, $4 the newest format known.
--
-- pick: per known workflow and priority the oldest due entries of the claim index, merged by wake_at less ten seconds
-- per step of priority: a constant of the run, so nothing starves. The mark keeps the scan off index entries of runs
-- that were taken before and are not vacuumed away yet. lock: in the order of ids, passing over what others hold, with
-- the conditions repeated on the newest version of each row. take.
WITH session AS MATERIALIZED (
    SELECT id, workflow_keys
    FROM leasehold.sessions
    WHERE id = $1 AND condemned_at IS NULL AND lease_expires_at > clock_timestamp()
), known AS MATERIALIZED (
    SELECT k.workflow_key
    FROM session
    CROSS JOIN LATERAL unnest(session.workflow_keys) AS k (workflow_key)
), orphans AS MATERIALIZED (
    SELECT orphan.id, o.id AS owner, NULL::timestamptz AS rank
    FROM leasehold.sessions AS o
    CROSS JOIN known
    CROSS JOIN LATERAL (
        SELECT r.id, r.priority
        FROM leasehold.runs AS r
        WHERE r.owner = o.id AND r.workflow_key = known.workflow_key AND r.format <= $4
        LIMIT $2
    ) AS orphan
    WHERE o.condemned_at IS NOT NULL AND o.id <> $1
    ORDER BY orphan.priority DESC, orphan.id
    LIMIT $2
), waiting AS MATERIALIZED (
    SELECT due.id, NULL::uuid AS owner, due.wake_at - p.priority * interval '10 seconds' AS rank
    FROM known
    CROSS JOIN generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT r.id, r.wake_at
        FROM leasehold.runs AS r
        WHERE r.owner IS NULL AND r.wake_at IS NOT NULL
          AND r.workflow_key = known.workflow_key AND r.priority = p.priority
          AND r.wake_at >= $3 AND r.wake_at <= statement_timestamp()
          AND r.format <= $4
        ORDER BY r.wake_at
        LIMIT $2
    ) AS due
    ORDER BY rank
    LIMIT $2
), picked AS MATERIALIZED (
    SELECT id, owner, rank FROM orphans
    UNION ALL
    SELECT id, owner, rank FROM waiting
    ORDER BY rank NULLS FIRST
    LIMIT $2
), locked AS MATERIALIZED (
    SELECT r.id, r.owner, r.wake_at, r.version
    FROM (SELECT id, owner FROM picked ORDER BY id) AS p
    CROSS JOIN LATERAL (
        SELECT r.id, r.owner, r.wake_at, r.ctid AS version
        FROM leasehold.runs AS r
        WHERE r.id = p.id
          AND r.owner IS NOT DISTINCT FROM p.owner
          AND (p.owner IS NOT NULL OR r.wake_at <= statement_timestamp())
          AND r.format <= $4
        FOR UPDATE SKIP LOCKED
    ) AS r
), taken AS (
    UPDATE leasehold.runs AS r
    SET owner = $1,
        claim = r.claim + 1,
        wake_at = NULL,
        -- Whoever takes the run reads its whole history next, so what was to be noticed will be.
        attention = false,
        updated_at = clock_timestamp()
    FROM locked AS l
    WHERE r.ctid = l.version
    RETURNING r.id, r.claim, l.owner, statement_timestamp() - l.wake_at AS waited
)
SELECT EXISTS (SELECT FROM session) AS alive,
       statement_timestamp() AS now,
       (SELECT count(*) FROM picked) AS picked,
       (SELECT max(rank) FROM picked) AS last_rank,
       array_agg(taken.id) AS ids,
       array_agg(taken.claim) AS claims,
       array_agg(taken.owner::text) AS previous_owners,
       array_agg(taken.waited) AS waited
FROM taken
