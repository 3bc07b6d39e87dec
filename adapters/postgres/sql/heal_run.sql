-- Writes the head that a history leads to, of a run that nothing will move; nothing, when that is no longer so.
-- Called by: adapters.postgres.repairs. Index: runs_pkey, sessions_pkey.
-- $1 the run, $2 the sequence number that its head has, $3 that of its history, $4 when it is due, $5 to $11 its head.
UPDATE leasehold.runs AS r
SET owner = NULL,
    attention = false,
    -- A null is not the greatest of anything here: the other one would be.
    wake_at = CASE
        WHEN $4::timestamptz IS NOT NULL AND r.drive = 'actor' THEN greatest($4::timestamptz, clock_timestamp())
    END,
    seq = $3,
    status = $5,
    phase = $6,
    started_at = $7,
    completed_at = $8,
    total_cost = $9::text::numeric,
    total_tokens = $10,
    error = $11,
    updated_at = clock_timestamp()
WHERE r.id = $1 AND r.seq = $2
  AND r.parked_reason IS NULL AND r.completed_at IS NULL
  AND (
      (r.owner IS NULL AND r.wake_at IS NULL)
      OR (r.owner IS NOT NULL AND NOT EXISTS (SELECT FROM leasehold.sessions AS s WHERE s.id = r.owner))
  )
RETURNING r.id
