-- Suspended runs for somebody who polls without a session: those that nobody owns and that are due, taken out of sight by
-- moving their wake_at; and those that a session owns while others append to them, left as they are.
-- Called by: adapters.postgres.claims (hold_suspended). Index: runs_claim, runs_owner, runs_pkey.
-- $1 and $2 workflow ids and versions, $3 how many, $4 for how long, $5 the newest format known.
WITH known AS MATERIALIZED (
    SELECT w.workflow_key
    FROM unnest($1::text[], $2::text[]) AS k (id, version)
    JOIN leasehold.workflows AS w ON w.id = k.id AND w.version = k.version
), waiting AS MATERIALIZED (
    -- Its owner (nobody) is compared as a column below: by a plain IS NULL the planner would look for ids in runs_claim.
    SELECT due.id, due.wake_at, NULL::uuid AS owner
    FROM known
    CROSS JOIN generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT r.id, r.wake_at
        FROM leasehold.runs AS r
        WHERE r.owner IS NULL AND r.wake_at IS NOT NULL
          AND r.workflow_key = known.workflow_key AND r.priority = p.priority
          AND r.wake_at <= statement_timestamp()
          AND r.phase = 'suspended' AND r.format <= $5
        ORDER BY r.wake_at
        LIMIT $3
    ) AS due
    ORDER BY due.wake_at
    LIMIT $3
), locked AS MATERIALIZED (
    SELECT r.id, r.version, p.wake_at
    FROM (SELECT id, wake_at, owner FROM waiting ORDER BY id) AS p
    CROSS JOIN LATERAL (
        SELECT r.id, r.ctid AS version
        FROM leasehold.runs AS r
        WHERE r.id = p.id
          AND r.owner IS NOT DISTINCT FROM p.owner
          AND r.wake_at <= statement_timestamp() AND r.phase = 'suspended'
        FOR UPDATE SKIP LOCKED
    ) AS r
), held AS (
    UPDATE leasehold.runs AS r
    SET wake_at = clock_timestamp() + $4::interval, updated_at = clock_timestamp()
    FROM locked AS l
    WHERE r.ctid = l.version
    RETURNING r.id, l.wake_at
), attended AS MATERIALIZED (
    SELECT r.id, r.updated_at
    FROM leasehold.runs AS r
    WHERE r.owner IS NOT NULL AND r.attention
      AND r.workflow_key IN (SELECT known.workflow_key FROM known)
      AND r.format <= $5 AND r.status = 'RUNNING'
    ORDER BY r.updated_at
    LIMIT $3
)
SELECT ARRAY (SELECT id::text FROM held ORDER BY wake_at, id) AS held,
       ARRAY (SELECT id::text FROM attended ORDER BY updated_at, id) AS attended
