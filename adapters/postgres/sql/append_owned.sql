-- What a session does to the runs it owns: appends, polls, releases and parks, one row each.
-- Called by: adapters.postgres.committer. Index: runs_pkey, sessions_pkey.
-- SKIP LOCKED: nobody is waited for; a row that is busy is missing from the answer and is sent again. Rows are looked up
-- and locked one by one, in the order of their ids, and then reached by their place (ctid): no join is left to the
-- planner, who would choose one by statistics that are older than the rows. (IS NOT DISTINCT FROM keeps it off
-- runs_owner.) A row that changed hands after the snapshot is not seen at its place and so missing from the answer.
WITH sent AS (
    SELECT *
    FROM unnest(
        $3::text::uuid[], $4::text::uuid[], $5::text::integer[], $6::text::integer[], $7::text::integer[],
        $8::text::text[], $9::text::timestamptz[], $10::json[], $11::json[],
        $12::text::text[], $13::text::text[], $14::text::timestamptz[], $15::text::timestamptz[],
        $16::text::timestamptz[], $17::text::numeric[], $18::text::bigint[], $19::json[],
        $20::text[], $21::json[]{jobs: , $22::json[]}
    ) WITH ORDINALITY AS t (
        run_id, append_id, expected, seq, claim, mode, at,
        events, bodies,
        status, phase, wake_at, started_at, completed_at, total_cost,
        total_tokens, error,
        parked_reason, poll_state,{jobs: jobs,}
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
          AND r.owner IS NOT DISTINCT FROM $1
          AND r.claim = s.claim
          AND EXISTS (
              SELECT FROM leasehold.sessions AS o
              WHERE o.id = $1 AND o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
          )
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS r
), moved AS (
    UPDATE leasehold.runs AS r
    SET owner = CASE WHEN l.mode IN ('owned', 'poll') AND NOT l.ended THEN r.owner END,
        wake_at = CASE
            WHEN l.mode = 'release' AND NOT l.ended AND l.wake_at IS NOT NULL
            THEN greatest(l.wake_at, clock_timestamp())
        END,
        attention = false,
        publish_at = CASE
            WHEN l.mode = 'owned' AND r.publish_at IS NULL AND EXISTS (SELECT FROM leasehold.sinks)
            THEN clock_timestamp()
            ELSE r.publish_at
        END,
        seq = l.seq,
        format = greatest(r.format, $2),
        status = l.status,
        phase = l.phase,
        started_at = l.started_at,
        completed_at = l.completed_at,
        total_cost = l.total_cost,
        total_tokens = l.total_tokens,
        error = l.error,
        parked_reason = CASE WHEN l.mode = 'park' THEN coalesce(l.parked_reason, 'unknown') END,
        parked_at = CASE WHEN l.mode = 'park' THEN clock_timestamp() END,
        poll_state = CASE
            WHEN l.ended THEN NULL
            WHEN l.poll_state IS NULL THEN r.poll_state
            ELSE coalesce(r.poll_state, '{}') || l.poll_state::jsonb
        END,
        updated_at = clock_timestamp()
    FROM locked AS l
    WHERE r.ctid = l.version
    RETURNING l.*{jobs: , r.workflow_key, r.priority}
), recorded AS (
    INSERT INTO leasehold.history (run_id, append_id, session, at, seq, first_seq, events, bodies)
    SELECT run_id, append_id, $1, at, seq, expected + 1, events, bodies
    FROM moved
    WHERE mode = 'owned'
{jobs_of moved}
)
SELECT array_agg(place::integer - 1) AS done
FROM moved
