-- Makes a command that was taken due again after a while: tried again for an error, or kept under its lease.
-- Called by: adapters.postgres.scheduler. Index: scheduled_commands_pkey.
-- $1 key, $2 schedule id, $3 tries (the token of the lease), $4 the delay, $5 the error or null.
UPDATE leasehold.scheduled_commands
SET due_at = clock_timestamp() + $4::interval,
    state = CASE WHEN $5::text IS NULL THEN state ELSE 'waiting' END,
    error = coalesce($5::text, error)
WHERE key = $1 AND schedule_id = $2::uuid AND tries = $3 AND state = 'taken'
RETURNING key
