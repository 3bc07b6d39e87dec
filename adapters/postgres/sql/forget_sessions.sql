-- Deletes sessions that were condemned an hour ago and that no head and no job names any more.
-- Called by: adapters.postgres.sessions, when a session opens. Index: runs_owner, jobs_session.
-- The hour is for a claim that was under way when its session was condemned: it may name the session a little later.
DELETE FROM leasehold.sessions AS o
WHERE o.condemned_at < clock_timestamp() - interval '1 hour'
  AND NOT EXISTS (SELECT FROM leasehold.runs AS r WHERE r.owner = o.id)
  AND NOT EXISTS (SELECT FROM leasehold.jobs AS j WHERE j.session = o.id)
