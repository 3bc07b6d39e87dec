-- Whether there is a blob.
-- Called by: adapters.postgres.blobs. Index: blobs_pkey.
SELECT EXISTS (SELECT FROM leasehold.blobs WHERE key = $1)
