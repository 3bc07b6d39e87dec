-- The sinks, and of how many runs each is owed something, counted up to a bound.
-- Called by: adapters.postgres.outbox. Index: deliveries_due.
-- $1 the bound.
SELECT k.name, k.event_types, o.owed
FROM leasehold.sinks AS k
CROSS JOIN LATERAL (
    SELECT count(*) AS owed
    FROM (SELECT FROM leasehold.deliveries AS d WHERE d.sink = k.name LIMIT $1) AS counted
) AS o
ORDER BY k.name
