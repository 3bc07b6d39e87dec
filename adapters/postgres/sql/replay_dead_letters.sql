-- Makes deliveries of the oldest dead letters: each is owed to its sink once more, alone.
-- Called by: adapters.postgres.outbox. Index: dead_letters_pkey, deliveries_pkey.
-- $1 how many.
WITH picked AS MATERIALIZED (
    SELECT l.id
    FROM leasehold.dead_letters AS l
    ORDER BY l.id
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), raised AS (
    DELETE FROM leasehold.dead_letters AS l
    USING picked AS p
    WHERE l.id = p.id
    RETURNING l.run_id, l.sink, l.seq
), owed AS (
    INSERT INTO leasehold.deliveries (run_id, sink, replayed, next_seq, last_seq, due_at)
    SELECT run_id, sink, seq, seq, seq, clock_timestamp()
    FROM raised
    ORDER BY run_id, sink, seq
    ON CONFLICT (run_id, sink, replayed) DO NOTHING
)
SELECT count(*) AS replayed FROM raised
