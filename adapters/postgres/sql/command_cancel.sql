-- Removes a scheduled command that waits; one that is being dispatched, or has failed, stays as it is.
-- Called by: adapters.postgres.scheduler. Index: scheduled_commands_pkey.
DELETE FROM leasehold.scheduled_commands
WHERE key = $1
  -- Whose lease has ended is dispatched by nobody.
  AND (state = 'waiting' OR (state = 'taken' AND due_at <= clock_timestamp()))
RETURNING key
