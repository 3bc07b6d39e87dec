-- Forgets commands that failed long ago: so the next failure bounds what all before it have left, without a chore.
-- Called by: adapters.postgres.scheduler. Index: scheduled_commands_failed, scheduled_commands_pkey.
-- The time of the statement is one for all rows, so the index can be asked for it.
-- $1 for how long they are kept, $2 how many at most.
DELETE FROM leasehold.scheduled_commands AS c
WHERE c.key = ANY (ARRAY (
    SELECT f.key
    FROM leasehold.scheduled_commands AS f
    WHERE f.state = 'failed' AND f.due_at < statement_timestamp() - $1::interval
    ORDER BY f.due_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
))
