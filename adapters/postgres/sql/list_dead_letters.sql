-- A page of dead letters, oldest first.
-- Called by: adapters.postgres.outbox. Index: dead_letters_pkey.
-- $1 above this id, $2 how many.
SELECT l.id, l.run_id::text AS run_id, l.seq, l.sink, l.error, l.tries, l.failed_at
FROM leasehold.dead_letters AS l
WHERE l.id > $1
ORDER BY l.id
LIMIT $2
