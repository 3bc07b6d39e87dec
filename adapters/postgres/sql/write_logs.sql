-- Keeps log lines, in the order given.
-- Called by: adapters.postgres.logs.
INSERT INTO leasehold.logs (run_id, stage_id, execution, attempt, at, level, message, fields)
SELECT run_id, stage_id, execution, attempt, at, level, message, fields
FROM unnest(
    $1::uuid[], $2::text[], $3::integer[], $4::integer[], $5::timestamptz[], $6::text[], $7::text[], $8::json[]
) WITH ORDINALITY AS s (run_id, stage_id, execution, attempt, at, level, message, fields, place)
ORDER BY place
