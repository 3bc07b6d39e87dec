-- Condemns a session before its lease has ended, because its process is gone.
-- Called by: adapters.postgres.early_condemnation, at the second look. Index: sessions_pkey.
-- $1 the session, $2 when it had renewed at the first look.
--
-- After a restart of the server the sessions of before it hold no lock until they have come back, for which they get
-- one lease. A session that was opened since had its lock here, so its absence means what it always means.
-- The row is locked before anything is looked at, so a renewal that is under way is waited for.
WITH locked AS MATERIALIZED (
    SELECT id, registered_at, renewed_at, lease
    FROM leasehold.sessions
    WHERE id = $1 AND condemned_at IS NULL AND direct
    FOR NO KEY UPDATE
)
UPDATE leasehold.sessions AS o
SET condemned_at = clock_timestamp()
FROM locked
WHERE o.id = locked.id
  AND locked.renewed_at = $2
  AND (
      pg_postmaster_start_time() < locked.registered_at
      OR pg_postmaster_start_time() < clock_timestamp() - locked.lease
  )
  AND leasehold.session_lock(o.id) NOT IN (SELECT h.lock FROM leasehold.held_session_locks AS h)
RETURNING o.id
