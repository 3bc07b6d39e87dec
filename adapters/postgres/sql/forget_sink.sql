-- Deletes a sink, with everything that it is owed and its dead letters.
-- Called by: adapters.postgres.outbox. Index: sinks_pkey, deliveries_due, dead_letters_sink_run_id_seq_key.
WITH owed AS (
    DELETE FROM leasehold.deliveries WHERE sink = $1
), dead AS (
    DELETE FROM leasehold.dead_letters WHERE sink = $1
)
DELETE FROM leasehold.sinks WHERE name = $1
RETURNING name
