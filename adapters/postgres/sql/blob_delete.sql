-- Removes a blob.
-- Called by: adapters.postgres.blobs. Index: blobs_pkey.
DELETE FROM leasehold.blobs WHERE key = $1
