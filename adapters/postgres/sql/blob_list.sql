-- Keys that begin with a prefix. The upper bound keeps the scan of the index within the prefix.
-- Called by: adapters.postgres.blobs. Index: blobs_pkey.
SELECT key FROM leasehold.blobs
WHERE key >= $1 AND key < $2 AND starts_with(key, $1)
ORDER BY key
