-- Moves the cursors of runs that have news, and notes in the same step what each sink is owed by that.
-- Called by: adapters.postgres.outbox. Index: runs_publish, runs_pkey, deliveries_pkey.
-- $1 how many runs, $2 the low-water mark.
--
-- Those that wait longest go first. Heads that are locked are passed over: an append holds them, and there will be more
-- to spread afterwards. (The second look asks in a way that keeps it off runs_publish.) A delivery that is there already
-- grows at its end: it has everything from its own next event on. A new one is due now, and not since the run has
-- waited: claims read from a mark on, and would not see what is older.
WITH picked AS MATERIALIZED (
    SELECT r.id, r.publish_at
    FROM leasehold.runs AS r
    WHERE r.publish_at IS NOT NULL AND r.publish_at >= $2
    ORDER BY r.publish_at
    LIMIT $1
), locked AS MATERIALIZED (
    SELECT r.*
    FROM (SELECT id FROM picked ORDER BY id) AS p
    CROSS JOIN LATERAL (
        SELECT r.id, r.seq, r.published_seq, r.ctid AS version
        FROM leasehold.runs AS r
        WHERE r.id = p.id AND coalesce(r.publish_at, 'infinity') < 'infinity'
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS r
), moved AS (
    UPDATE leasehold.runs AS r
    SET published_seq = l.seq,
        publish_at = NULL
    FROM locked AS l
    WHERE r.ctid = l.version
    RETURNING l.id, l.seq, l.published_seq
), owed AS (
    INSERT INTO leasehold.deliveries AS d (run_id, sink, next_seq, last_seq, due_at)
    SELECT m.id, k.name, m.published_seq + 1, m.seq, clock_timestamp()
    FROM moved AS m
    CROSS JOIN leasehold.sinks AS k
    WHERE m.seq > m.published_seq
    ORDER BY m.id, k.name
    ON CONFLICT (run_id, sink, replayed) DO UPDATE SET last_seq = excluded.last_seq
)
SELECT (SELECT count(*) FROM moved) AS moved,
       (SELECT count(*) FROM picked) AS picked,
       (SELECT max(publish_at) FROM picked) AS last,
       statement_timestamp() AS now
