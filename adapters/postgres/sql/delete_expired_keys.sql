-- Makes room for keys whose former holders have expired; the loser that found them then sends its append again.
-- Called by: adapters.postgres.committer. Index: idempotency_keys_pkey.
DELETE FROM leasehold.idempotency_keys AS k
USING unnest($1::text[], $2::text[], $3::text[]) AS s (command_type, scope, key)
WHERE k.command_type = s.command_type AND k.scope = s.scope AND k.key = s.key
  AND k.expires_at < clock_timestamp()
