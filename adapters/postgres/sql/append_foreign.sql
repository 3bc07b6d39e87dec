-- What anybody does to runs that they need not own: foreign appends, polls and unparks, one row each.
-- Called by: adapters.postgres.committer. Index: runs_pkey, idempotency_keys_pkey; with jobs also jobs_pkey, sessions_pkey.
-- With jobs it can also hand a run over to them (dispatch), park one that has no owner, and refuse an append in the
-- name of a lease that is not held. Locks are taken in the order runs, then jobs.
-- Waits for rows that are locked, at most for lock_timeout, and locks them in the order of their ids. The owner stays,
-- even of a run that has ended: it interrupts what it executes and gives the run back.
-- Rows are looked up one by one and then reached by their place, as in append_owned.sql.
WITH sent AS (
    SELECT *
    FROM unnest(
        $2::text::uuid[], $3::text::uuid[], $4::text::integer[], $5::text::integer[], $6::text::text[],
        $7::text::uuid[], $8::text::timestamptz[], $9::json[], $10::json[],
        $11::text::text[], $12::text::text[], $13::text::timestamptz[], $14::text::timestamptz[],
        $15::text::timestamptz[], $16::text::numeric[], $17::text::bigint[], $18::json[],
        $19::text[], $20::text[], $21::text[], $22::text[], $23::text::timestamptz[],
        $24::json[]{jobs: , $25::json[], $26::text[], $27::text[], $28::text[]}
    ) WITH ORDINALITY AS t (
        run_id, append_id, expected, seq, mode, session, at,
        events, bodies,
        status, phase, wake_at, started_at, completed_at, total_cost,
        total_tokens, error,
        command_type, scope, key, digest, expires_at,
        poll_state,{jobs: jobs, lease_stage, lease_token, parked_reason,}
        place
    )
    ORDER BY run_id
), locked AS MATERIALIZED (
    SELECT s.*, r.version, s.status IN ('COMPLETED', 'FAILED', 'CANCELLED') AS ended
    FROM sent AS s
    CROSS JOIN LATERAL (
        SELECT r.ctid AS version
        FROM leasehold.runs AS r
        WHERE r.id = s.run_id
          AND r.seq = s.expected
          AND {plain: (s.mode <> 'unpark' OR r.parked_reason IS NOT NULL)}{jobs: CASE
              WHEN s.mode IN ('foreign', 'poll') THEN true
              WHEN s.mode = 'unpark' THEN r.parked_reason IS NOT NULL
              WHEN r.parked_reason IS NOT NULL THEN false
              ELSE r.owner IS NULL OR EXISTS (
                  SELECT FROM leasehold.sessions AS o WHERE o.id = r.owner AND o.condemned_at IS NOT NULL
              )
          END}
        FOR NO KEY UPDATE
    ) AS r
{jobs: ), leased AS MATERIALIZED (
    SELECT l.run_id
    FROM locked AS l
    CROSS JOIN LATERAL (
        SELECT FROM leasehold.jobs AS j
        WHERE j.run_id = l.run_id AND j.stage_id = l.lease_stage AND j.token = l.lease_token
        FOR NO KEY UPDATE
    ) AS j
}), keyed AS (
    INSERT INTO leasehold.idempotency_keys (command_type, scope, key, digest, run_id, expires_at)
    SELECT command_type, scope, key, digest, run_id, coalesce(expires_at, clock_timestamp() + interval '30 days')
    FROM locked
    WHERE key IS NOT NULL
    ORDER BY command_type, scope, key
    ON CONFLICT DO NOTHING
    RETURNING run_id
), admitted AS MATERIALIZED (
    SELECT l.*
    FROM locked AS l
    WHERE (l.key IS NULL OR l.run_id IN (SELECT run_id FROM keyed))
{jobs:       AND (l.lease_token IS NULL OR l.run_id IN (SELECT run_id FROM leased))
}), moved AS (
    UPDATE leasehold.runs AS r
    SET wake_at = CASE
            WHEN r.owner IS NULL AND NOT l.ended AND l.wake_at IS NOT NULL AND r.drive = 'actor'
                 AND (l.mode = 'unpark' OR r.parked_reason IS NULL){jobs: AND l.mode NOT IN ('dispatch', 'park')}
            THEN greatest(l.wake_at, clock_timestamp())
        END,
        -- Also when it has ended: its owner executes something that must be interrupted, and gives it back then.
        -- A look that changed nothing else is no news to the owner.
        attention = CASE
            WHEN l.mode = 'poll' THEN r.attention
{jobs:             WHEN l.mode IN ('dispatch', 'park') THEN false
}            ELSE r.owner IS NOT NULL
        END,
{jobs:         owner = CASE WHEN l.mode NOT IN ('dispatch', 'park') THEN r.owner END,
        drive = CASE WHEN l.mode = 'dispatch' THEN 'jobs' ELSE r.drive END,
}        publish_at = CASE
            WHEN l.mode {plain: = 'foreign'}{jobs: IN ('foreign', 'dispatch')} AND r.publish_at IS NULL
                 AND EXISTS (SELECT FROM leasehold.sinks)
            THEN clock_timestamp()
            ELSE r.publish_at
        END,
        seq = l.seq,
        format = greatest(r.format, $1),
        status = l.status,
        phase = l.phase,
        started_at = l.started_at,
        completed_at = l.completed_at,
        total_cost = l.total_cost,
        total_tokens = l.total_tokens,
        error = l.error,
        poll_state = CASE
            WHEN l.ended THEN NULL
            WHEN l.poll_state IS NULL THEN r.poll_state
            ELSE coalesce(r.poll_state, '{}') || l.poll_state::jsonb
        END,
        parked_reason = CASE
{jobs:             WHEN l.mode = 'park' THEN coalesce(l.parked_reason, 'unknown')
}            WHEN l.mode <> 'unpark' AND NOT l.ended THEN r.parked_reason
        END,
        parked_at = CASE
{jobs:             WHEN l.mode = 'park' THEN clock_timestamp()
}            WHEN l.mode <> 'unpark' AND NOT l.ended THEN r.parked_at
        END,
        updated_at = clock_timestamp()
    FROM admitted AS l
    WHERE r.ctid = l.version
    RETURNING l.*, r.owner IS NOT NULL AS owned{jobs: , r.workflow_key, r.priority}
), recorded AS (
    INSERT INTO leasehold.history (run_id, append_id, session, at, seq, first_seq, events, bodies)
    SELECT run_id, append_id, session, at, seq, expected + 1, events, bodies
    FROM moved
    WHERE mode {plain: = 'foreign'}{jobs: IN ('foreign', 'dispatch')}
{jobs_of moved}
)
SELECT array_agg(place::integer - 1) AS done, array_agg(place::integer - 1) FILTER (WHERE owned) AS owned
FROM moved
