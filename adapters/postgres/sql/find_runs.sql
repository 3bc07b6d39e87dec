-- Runs by the end of their id, newest first.
-- Called by: adapters.postgres.listings. Index: runs_short_id.
SELECT r.id::text
FROM leasehold.runs AS r
WHERE "right"(r.id::text, 8) = "right"($1, 8) AND "right"(r.id::text, length($1)) = $1
ORDER BY r.id DESC
LIMIT 10
