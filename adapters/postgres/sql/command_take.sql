-- Takes scheduled commands that are due, the oldest first, under a lease.
-- Called by: adapters.postgres.scheduler. Index: scheduled_commands_due, once per known workflow.
-- $1 the workflows that this process knows, $2 how many, $3 the lease.
-- The state is looked at again once a row is locked: who was faster has moved its due_at.
WITH known AS MATERIALIZED (
    SELECT '' AS id
    UNION
    SELECT unnest($1::text[])
), due AS MATERIALIZED (
    SELECT found.key
    FROM known
    CROSS JOIN LATERAL (
        SELECT c.key, c.due_at
        FROM leasehold.scheduled_commands AS c
        WHERE c.workflow_id = known.id AND c.state <> 'failed' AND c.due_at <= statement_timestamp()
        ORDER BY c.due_at
        LIMIT $2
    ) AS found
    ORDER BY found.due_at
    LIMIT $2
), locked AS MATERIALIZED (
    SELECT c.key
    FROM due
    JOIN leasehold.scheduled_commands AS c ON c.key = due.key
    WHERE c.state <> 'failed' AND c.due_at <= statement_timestamp()
    FOR NO KEY UPDATE OF c SKIP LOCKED
), taken AS (
    UPDATE leasehold.scheduled_commands AS c
    SET state = 'taken', due_at = clock_timestamp() + $3::interval, tries = c.tries + 1
    FROM locked
    WHERE c.key = locked.key
    RETURNING c.key, c.schedule_id::text AS schedule_id, c.tries, c.command
)
SELECT * FROM taken
