-- What appending to a batch of owned runs costs at least: one head update and one history row each.
-- Called by: adapters.postgres.bare_limit. Index: runs_pkey, sessions_pkey.
WITH sent AS (
    SELECT *
    FROM unnest(
        $2::text::uuid[], $3::text::uuid[], $4::text::integer[], $5::text::integer[], $6::text::boolean[], $7::json[],
        $8::json[]
    ) AS t (run_id, append_id, expected, seq, ends, events, bodies)
    WHERE EXISTS (
        SELECT FROM leasehold.sessions AS o
        WHERE o.id = $1 AND o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
    )
), moved AS (
    UPDATE leasehold.runs AS r
    SET seq = s.seq,
        owner = CASE WHEN NOT s.ends THEN r.owner END,
        status = CASE WHEN s.ends THEN 'COMPLETED' ELSE r.status END,
        phase = CASE WHEN s.ends THEN 'ended' ELSE r.phase END,
        completed_at = CASE WHEN s.ends THEN clock_timestamp() END,
        updated_at = clock_timestamp()
    FROM sent AS s
    WHERE r.id = s.run_id AND r.seq = s.expected AND r.owner IS NOT DISTINCT FROM $1 AND r.claim = 0
    RETURNING s.*
), recorded AS (
    INSERT INTO leasehold.history (run_id, append_id, session, at, seq, first_seq, events, bodies)
    SELECT run_id, append_id, $1, clock_timestamp(), seq, expected + 1, events, bodies
    FROM moved
)
SELECT count(*) FROM moved
