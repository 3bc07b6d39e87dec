-- Removes a scheduled command, and says whether it was still waiting.
-- Called by: adapters.postgres.scheduler. Index: scheduled_commands_pkey.
DELETE FROM leasehold.scheduled_commands
WHERE key = $1
-- Whose lease has ended is dispatched by nobody.
RETURNING state = 'waiting' OR (state = 'taken' AND due_at <= clock_timestamp()) AS waited
