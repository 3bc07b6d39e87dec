-- Why rows are missing from the answer of an append: what the heads, histories, keys and sessions say now.
-- Called by: adapters.postgres.committer, for every row that was not done. Index: runs_pkey, history_pkey,
-- sessions_pkey, idempotency_keys_pkey, jobs_pkey.
SELECT s.place::integer - 1 AS place,
       clock_timestamp() AS now,
       r.seq,
       r.owner::text,
       r.claim,
       r.parked_reason IS NOT NULL AS parked,
       coalesce(h.append_id = s.append_id, false) AS landed,
       coalesce(o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp(), false) AS live,
       k.run_id::text AS key_run_id,
       k.digest AS key_digest,
       k.expires_at < clock_timestamp() AS key_expired,
       j.token AS job_token
FROM unnest(
         $1::uuid[], $2::uuid[], $3::integer[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[]
     )
     WITH ORDINALITY AS s (run_id, append_id, seq, session, command_type, scope, key, lease_stage, place)
LEFT JOIN leasehold.runs AS r ON r.id = s.run_id
-- Lateral, because the planner may look into all of the history at once for an EXISTS.
LEFT JOIN LATERAL (
    SELECT h.append_id FROM leasehold.history AS h WHERE h.run_id = s.run_id AND h.seq = s.seq LIMIT 1
) AS h ON true
LEFT JOIN leasehold.sessions AS o ON o.id = s.session
LEFT JOIN leasehold.jobs AS j ON j.run_id = s.run_id AND j.stage_id = s.lease_stage
LEFT JOIN leasehold.idempotency_keys AS k
       ON k.command_type = s.command_type AND k.scope = s.scope AND k.key = s.key
