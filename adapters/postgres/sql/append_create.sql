-- Begins the histories of a batch of runs: per run one head, one history row, and a key row when it has a key.
-- Called by: adapters.postgres.committer. Index: runs_pkey (is the id free), idempotency_keys_pkey.
-- Heads go in by id and keys by name, so that two batches never wait for each other in opposite orders.
WITH sent AS (
    SELECT *
    FROM unnest(
        $3::text::uuid[], $4::text::uuid[], $5::text::integer[], $6::text::integer[], $7::text::timestamptz[],
        $8::json[], $9::json[],
        $10::text::text[], $11::text::text[], $12::text::timestamptz[], $13::text::timestamptz[],
        $14::text::timestamptz[], $15::text::numeric[], $16::text::bigint[], $17::json[],
        $18::text::integer[], $19::text[], $20::text::smallint[], $21::text::timestamptz[], $22::text[], $23::json[],
        $24::text[], $25::json[],
        $26::text[], $27::text[], $28::text[], $29::text[], $30::text::timestamptz[]{jobs: , $31::json[]}
    ) WITH ORDINALITY AS t (
        run_id, append_id, seq, claim, at, events, bodies,
        status, phase, wake_at, started_at, completed_at, total_cost,
        total_tokens, error,
        workflow_key, fingerprint, priority, run_at, idempotency_key, metadata, root_span_id,
        trace_context,
        command_type, scope, key, digest, expires_at,{jobs: jobs,}
        place
    )
), fresh AS MATERIALIZED (
    SELECT s.*
    FROM sent AS s
    WHERE NOT EXISTS (SELECT FROM leasehold.runs AS r WHERE r.id = s.run_id)
      -- A foreign clock would put the run into a partition that is full, gone, or not yet there.
      AND s.run_id >= (SELECT leasehold.lowest_run_id(clock_timestamp() - interval '1 hour'))
      AND s.run_id < (SELECT leasehold.lowest_run_id(clock_timestamp() + interval '1 hour'))
      AND ($1::uuid IS NULL OR EXISTS (
          SELECT FROM leasehold.sessions AS o
          WHERE o.id = $1 AND o.condemned_at IS NULL AND o.lease_expires_at > clock_timestamp()
      ))
), keyed AS (
    INSERT INTO leasehold.idempotency_keys (command_type, scope, key, digest, run_id, expires_at)
    SELECT command_type, scope, key, digest, run_id, coalesce(expires_at, clock_timestamp() + interval '30 days')
    FROM fresh
    WHERE key IS NOT NULL
    ORDER BY command_type, scope, key
    ON CONFLICT DO NOTHING
    RETURNING run_id
), admitted AS MATERIALIZED (
    SELECT f.*, f.status IN ('COMPLETED', 'FAILED', 'CANCELLED') AS ended
    FROM fresh AS f
    WHERE f.key IS NULL OR f.run_id IN (SELECT run_id FROM keyed)
), headed AS (
    INSERT INTO leasehold.runs (
        id, owner, claim, wake_at, publish_at, run_at, created_at, updated_at, started_at, completed_at,
        total_tokens, workflow_key, seq, format, priority, status, phase, total_cost, fingerprint, root_span_id,
        idempotency_key, trace_context, error, metadata
    )
    SELECT run_id,
           CASE WHEN NOT ended THEN $1 END,
           claim,
           CASE WHEN NOT ended AND $1 IS NULL AND wake_at IS NOT NULL THEN greatest(wake_at, clock_timestamp()) END,
           CASE WHEN EXISTS (SELECT FROM leasehold.sinks) THEN clock_timestamp() END,
           run_at, at, clock_timestamp(), started_at, completed_at,
           total_tokens, workflow_key, seq, $2, priority, status, phase, total_cost, fingerprint, root_span_id,
           idempotency_key, trace_context, error, metadata
    FROM admitted
), recorded AS (
    INSERT INTO leasehold.history (run_id, append_id, session, at, seq, first_seq, events, bodies)
    SELECT run_id, append_id, $1, at, seq, 1, events, bodies
    FROM admitted
{jobs_of admitted}
)
SELECT array_agg(place::integer - 1) AS done
FROM admitted
