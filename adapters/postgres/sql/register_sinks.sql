-- Adds sinks, or replaces what is known of them; those that are there unchanged are not touched.
-- Called by: adapters.postgres.outbox. Index: sinks_pkey.
-- $1 names, $2 the types of events that each wants, separated by commas (null: all).
INSERT INTO leasehold.sinks AS k (name, event_types)
SELECT s.name, string_to_array(s.event_types, ',')
FROM unnest($1::text[], $2::text[]) AS s (name, event_types)
ORDER BY s.name
ON CONFLICT (name) DO UPDATE SET event_types = excluded.event_types
WHERE k.event_types IS DISTINCT FROM excluded.event_types
