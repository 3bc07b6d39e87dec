-- Keeps a command until it is due; one of the same key is replaced, in whatever state it is.
-- Called by: adapters.postgres.scheduler. Index: scheduled_commands_pkey.
-- $1 key, $2 schedule id, $3 due at, $4 the workflow that it needs or '', $5 the command.
-- The same scheduling sent again leaves what has become of it meanwhile alone.
INSERT INTO leasehold.scheduled_commands AS s (key, schedule_id, due_at, workflow_id, command)
VALUES ($1, $2::uuid, $3, $4, $5::json)
ON CONFLICT (key) DO UPDATE
SET schedule_id = excluded.schedule_id,
    due_at = excluded.due_at,
    workflow_id = excluded.workflow_id,
    command = excluded.command,
    created_at = excluded.created_at,
    state = 'waiting',
    tries = 0,
    error = NULL
WHERE s.schedule_id <> excluded.schedule_id
