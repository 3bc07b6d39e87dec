-- Writes down how far claimed deliveries have come, and what has become a dead letter on the way.
-- Called by: adapters.postgres.outbox. Index: deliveries_pkey, dead_letters_sink_run_id_seq_key.
-- $1 to $8 per delivery: run, sink, event that is replayed, token, next event, its failures, when to go on, why it
-- failed; $9 to $12 per dead letter: place of its delivery (from 1), event, tries, error.
--
-- Complete is what has nothing left by the newest version of its row: news may have been spread to it meanwhile. So it
-- is deleted first, on that condition, and what was not is moved on.
WITH sent AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $1::text::uuid[], $2::text[], $3::text::integer[], $4::text::uuid[], $5::text::integer[], $6::text::integer[],
        $7::text::interval[], $8::text[]
    ) WITH ORDINALITY AS t (run_id, sink, replayed, token, next_seq, tries, delay, error, place)
    ORDER BY run_id, sink, replayed
), complete AS (
    DELETE FROM leasehold.deliveries AS d
    USING sent AS s
    WHERE d.run_id = s.run_id AND d.sink = s.sink AND d.replayed = s.replayed AND d.token = s.token
      AND d.last_seq < s.next_seq
    RETURNING s.place
), incomplete AS (
    UPDATE leasehold.deliveries AS d
    SET next_seq = s.next_seq,
        tries = s.tries,
        due_at = clock_timestamp() + s.delay,
        token = NULL,
        error = s.error
    FROM sent AS s
    WHERE d.run_id = s.run_id AND d.sink = s.sink AND d.replayed = s.replayed AND d.token = s.token
      AND NOT EXISTS (SELECT FROM complete AS c WHERE c.place = s.place)
    RETURNING s.place
), settled AS MATERIALIZED (
    SELECT place FROM complete
    UNION ALL
    SELECT place FROM incomplete
), buried AS (
    INSERT INTO leasehold.dead_letters AS l (run_id, seq, sink, error, tries)
    SELECT s.run_id, b.seq, s.sink, b.error, b.tries
    FROM unnest($9::text::integer[], $10::text::integer[], $11::text::integer[], $12::text[])
        AS b (place, seq, tries, error)
    JOIN sent AS s ON s.place = b.place
    WHERE EXISTS (SELECT FROM settled WHERE settled.place = b.place)
    ORDER BY s.sink, s.run_id, b.seq
    ON CONFLICT (sink, run_id, seq) DO UPDATE
    SET error = excluded.error,
        tries = excluded.tries,
        failed_at = clock_timestamp()
)
SELECT count(*) AS settled FROM settled
