-- Takes deliveries that a sink is owed now, oldest first, and reads the appends that hold their events.
-- Called by: adapters.postgres.outbox. Index: deliveries_due, deliveries_pkey, history_pkey.
-- $1 the sink, $2 how many, $3 for how long, $4 the claim's token, $5 how many appends of each, $6 the low-water mark.
--
-- A claim is a date: until then nobody finds the delivery due. When it has passed the delivery is simply due again, and
-- gets another token, so that whoever had it before can settle nothing any more.
WITH picked AS MATERIALIZED (
    SELECT d.run_id, d.replayed, d.due_at
    FROM leasehold.deliveries AS d
    WHERE d.sink = $1 AND d.due_at >= $6 AND d.due_at <= statement_timestamp()
    ORDER BY d.due_at
    LIMIT $2
), locked AS MATERIALIZED (
    SELECT d.*
    FROM (SELECT run_id, replayed FROM picked ORDER BY run_id, replayed) AS p
    CROSS JOIN LATERAL (
        SELECT d.run_id, d.replayed, d.due_at, d.ctid AS version
        FROM leasehold.deliveries AS d
        WHERE d.run_id = p.run_id AND d.sink = $1 AND d.replayed = p.replayed AND d.due_at <= statement_timestamp()
        FOR UPDATE SKIP LOCKED
    ) AS d
), taken AS (
    UPDATE leasehold.deliveries AS d
    SET due_at = clock_timestamp() + $3::interval,
        token = $4::uuid
    FROM locked AS l
    WHERE d.ctid = l.version
    RETURNING d.run_id, d.replayed, d.next_seq, d.last_seq, d.tries, l.due_at
)
SELECT t.run_id::text AS run_id,
       t.replayed,
       t.next_seq,
       t.last_seq,
       t.tries,
       p.picked,
       p.last,
       statement_timestamp() AS now,
       h.first_seq AS row_first_seq,
       h.seq AS row_seq,
       h.append_id::text AS row_append_id,
       h.session::text AS row_session,
       h.at AS row_at,
       h.events AS row_events,
       b.names AS row_names,
       b.texts AS row_bodies
FROM (SELECT count(*) AS picked, max(due_at) AS last FROM picked) AS p
LEFT JOIN taken AS t ON true
LEFT JOIN LATERAL (
    SELECT h.first_seq, h.seq, h.append_id, h.session, h.at, h.events, h.bodies
    FROM leasehold.history AS h
    WHERE h.run_id = t.run_id AND h.seq >= t.next_seq AND h.first_seq <= t.last_seq
    ORDER BY h.seq
    LIMIT $5
) AS h ON true
LEFT JOIN LATERAL (
    SELECT array_agg(body.key) AS names, array_agg(body.value::text) AS texts
    FROM json_each(h.bodies) AS body
) AS b ON true
ORDER BY t.due_at, t.run_id, t.replayed, h.seq
