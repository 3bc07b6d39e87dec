-- A blob's bytes.
-- Called by: adapters.postgres.blobs. Index: blobs_pkey.
SELECT data FROM leasehold.blobs WHERE key = $1
