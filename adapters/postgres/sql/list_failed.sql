-- One page of heads of failed runs, newest first.
-- Called by: adapters.postgres.listings. Index: runs_failed, read backwards.
-- $1 before this id, $2 from this id on, $3 the status to show, $4 created since or null, $5 how many,
-- $6 the workflow or null.
{page_of_heads}
  AND r.error IS NOT NULL
ORDER BY r.id DESC
LIMIT $5
