-- Stores a blob, replacing what was there.
-- Called by: adapters.postgres.blobs. Index: blobs_pkey.
INSERT INTO leasehold.blobs (key, data) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET data = excluded.data, created_at = clock_timestamp()
