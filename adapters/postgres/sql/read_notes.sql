-- The annotations of a run after a sequence number, with the payload of each fact.
-- Called by: adapters.postgres.notes. Index: history_pkey. Reads the history of this one run, in one partition.
SELECT h.first_seq + fact.place::integer - 1 AS seq,
       h.at,
       fact.value::text AS fact,
       coalesce(h.bodies -> (h.first_seq + fact.place - 1)::text, 'null')::text AS value
FROM leasehold.history AS h
CROSS JOIN LATERAL json_array_elements(h.events) WITH ORDINALITY AS fact (value, place)
WHERE h.run_id = $1
  AND h.seq > $2
  AND h.first_seq + fact.place - 1 > $2
  AND fact.value ->> 'type' = 'annotation.created'
ORDER BY h.seq, fact.place
LIMIT $3
