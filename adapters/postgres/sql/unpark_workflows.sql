-- Gives back the runs that were parked because their definition had changed, to processes that have it.
-- Called by: adapters.postgres.workflows. Index: runs_parked.
-- $1 ids, $2 versions, $3 fingerprints (null: whatever the run has).
WITH given AS (
    SELECT w.workflow_key, g.fingerprint
    FROM unnest($1::text[], $2::text[], $3::text[]) AS g (id, version, fingerprint)
    JOIN leasehold.workflows AS w ON w.id = g.id AND w.version = g.version
), returned AS (
    UPDATE leasehold.runs AS r
    SET parked_reason = NULL,
        parked_at = NULL,
        wake_at = clock_timestamp(),
        updated_at = clock_timestamp()
    FROM given
    WHERE r.workflow_key = given.workflow_key
      AND r.parked_reason LIKE 'definition\_changed%'
      AND r.owner IS NULL
      AND (given.fingerprint IS NULL OR r.fingerprint = given.fingerprint)
    RETURNING r.id
)
SELECT count(*) AS returned FROM returned
