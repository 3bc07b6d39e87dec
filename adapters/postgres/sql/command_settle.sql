-- Ends a command that was taken: it is forgotten when it was dispatched, and kept as failed for an error.
-- Called by: adapters.postgres.scheduler. Index: scheduled_commands_pkey.
-- $1 key, $2 schedule id, $3 tries (the token of the lease), $4 the error or null.
WITH done AS (
    DELETE FROM leasehold.scheduled_commands
    WHERE $4::text IS NULL AND key = $1 AND schedule_id = $2::uuid AND tries = $3 AND state = 'taken'
)
UPDATE leasehold.scheduled_commands
SET state = 'failed', error = $4::text
WHERE $4::text IS NOT NULL AND key = $1 AND schedule_id = $2::uuid AND tries = $3 AND state = 'taken'
