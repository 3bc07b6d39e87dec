-- The run that an idempotency key belongs to.
-- Called by: adapters.postgres.reading (find_key). Index: idempotency_keys_pkey.
SELECT run_id::text
FROM leasehold.idempotency_keys
WHERE command_type = $1 AND scope = $2 AND key = $3 AND expires_at > clock_timestamp()
