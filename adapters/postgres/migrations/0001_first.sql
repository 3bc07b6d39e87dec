-- Schema map
--
--   workflows ──< runs ──< history                   who runs what, and everything that happened to it
--                  │ │
--      sessions ──<┘ ├──< jobs                       who drives it; attempts that others execute
--                    ├──< logs                       what bodies say
--                    ├──< ai_calls                   what models cost
--                    ├──< deliveries, dead_letters   events that a sink did not take yet, or never took
--                    └──  idempotency_keys           which run a caller's key belongs to
--   sinks, scheduled_commands, maintenance, blobs    on their own
--
-- runs      one small mutable row per run, its head: enough to claim it and to list it. Always derived from history.
-- history   insert-only, one row per append: the source of truth and the outbox. Partitioned by the month in the run's
--           id; "history_before" and "history_after" catch what lies outside of the months that exist.
-- sessions  one row per process start: the lease. (owner, claim) in a head is the fencing token of one acquisition.
--
-- There are no foreign keys: they double the cost of a history row and forbid dropping a partition.
--
-- Rule for indexes of runs: an index, or its predicate, names only columns that stay as they are while a run is being
-- driven: id, workflow_key, priority, wake_at, owner, publish_at, parked_reason, error, completed_at, cancelled. An append
-- then changes no indexed column, which keeps it a heap-only (HOT) update. "status" in a predicate costs a fifth of them:
-- it changes when a run starts. "error" changes only when a run fails or is rerun, and tells the failed ones as well;
-- "cancelled" likewise. Completed runs have no such index: every run would pay an entry for it.
--
-- The schema's name stands here as the default one; whoever runs these files under another name replaces it.

CREATE SCHEMA IF NOT EXISTS leasehold;

CREATE TABLE leasehold.migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE leasehold.migrations IS 'Which numbered migrations this schema has had.';

-- Identifiers ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION leasehold.lowest_run_id(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
COMMENT ON FUNCTION leasehold.lowest_run_id IS 'Below every run id that was minted at this moment or later.';

CREATE FUNCTION leasehold.mint_run_id() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
-- A UUIDv7 of the database's clock. The random part, with its variant bits, is that of a UUIDv4; byte 7 is the shard.
RETURN (
    SELECT (lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
            || '7' || substr(random, 14, 1) || '00' || substr(random, 17))::uuid
    FROM (SELECT replace(gen_random_uuid()::text, '-', '') AS random) AS drawn
);
COMMENT ON FUNCTION leasehold.mint_run_id IS 'A new run id: a UUIDv7 of the database''s clock whose byte 7, the shard number, is 0.';

-- Definitions and runs ------------------------------------------------------------------------------------------------

CREATE TABLE leasehold.workflows (
    workflow_key  integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id            text NOT NULL,
    version       text NOT NULL,
    fingerprint   text NOT NULL,
    plan          json NOT NULL,
    description   json NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (id, version)
);
COMMENT ON TABLE leasehold.workflows IS 'Definitions as processes registered them; a later key is a version that was first seen later.';

CREATE TABLE leasehold.runs (
    id              uuid PRIMARY KEY,
    owner           uuid,
    wake_at         timestamptz,
    publish_at      timestamptz,
    run_at          timestamptz,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    started_at      timestamptz,
    completed_at    timestamptz,
    parked_at       timestamptz,
    total_tokens    bigint NOT NULL DEFAULT 0,
    workflow_key    integer NOT NULL,
    seq             integer NOT NULL,
    published_seq   integer NOT NULL DEFAULT 0,
    claim           integer NOT NULL DEFAULT 0,
    format          smallint NOT NULL,
    priority        smallint NOT NULL,
    attention       boolean NOT NULL DEFAULT false,
    status          text NOT NULL,
    phase           text NOT NULL,
    drive           text NOT NULL DEFAULT 'actor',
    total_cost      numeric NOT NULL DEFAULT 0,
    fingerprint     text NOT NULL,
    parked_reason   text,
    root_span_id    text,
    idempotency_key text,
    trace_context   json,
    error           json,
    metadata        json,
    poll_state      jsonb,
    -- For its index alone, as "status" must not be in one: it changes when a run is cancelled or rerun, and never else.
    cancelled       boolean GENERATED ALWAYS AS (CASE WHEN status = 'CANCELLED' THEN true END) STORED,
    -- Claims look at these priorities only; another one would never be taken.
    CONSTRAINT runs_priority CHECK (priority BETWEEN 0 AND 9)
) WITH (
    -- Room for the versions that a run's appends leave behind, so that they stay on the page (HOT).
    fillfactor = 45,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
COMMENT ON TABLE leasehold.runs IS 'The head of each run; derived from its history.';
COMMENT ON COLUMN leasehold.runs.owner IS 'The session that drives the run; with "claim" the fencing token.';
COMMENT ON COLUMN leasehold.runs.wake_at IS 'When a run without an owner has to be claimed; null while owned, parked, ended or waiting on jobs.';
COMMENT ON COLUMN leasehold.runs.publish_at IS 'Since when there are events after "published_seq"; null when there are none, or no sinks.';
COMMENT ON COLUMN leasehold.runs.published_seq IS 'Up to which event every sink has the run''s events or is owed them (deliveries).';
COMMENT ON COLUMN leasehold.runs.attention IS 'Somebody else appended to an owned run since its owner did.';
COMMENT ON COLUMN leasehold.runs.phase IS 'What an active run waits for: pending, delayed, running, retrying, suspended, queued; or ended.';
COMMENT ON COLUMN leasehold.runs.drive IS '"actor": an owner executes it; "jobs": it is never owned, and every step is a row of jobs.';
COMMENT ON COLUMN leasehold.runs.format IS 'The newest version of the meaning of facts in its history; newer than a process knows: not claimed by it.';
COMMENT ON COLUMN leasehold.runs.poll_state IS 'What looks at suspended stages left that changed nothing else, by stage; laid over what the history says.';
COMMENT ON COLUMN leasehold.runs.error IS 'Of a failed run: type, message, retryable, stage_id, attempt; its traceback is in history.';

CREATE INDEX runs_claim ON leasehold.runs (workflow_key, priority, wake_at) WHERE owner IS NULL AND wake_at IS NOT NULL;
-- Takeover, adoption, attention. The workflow's key lets a claim pass over the runs it does not know.
CREATE INDEX runs_owner ON leasehold.runs (owner, workflow_key) WHERE owner IS NOT NULL;
CREATE INDEX runs_publish ON leasehold.runs (publish_at) WHERE publish_at IS NOT NULL;
CREATE INDEX runs_parked ON leasehold.runs (workflow_key) WHERE parked_reason IS NOT NULL;
-- Every key is positive. The predicate is there to be left out: a query by id alone cannot use this index then, which
-- the planner otherwise takes for as good as the primary key while the table is small, and reads through when it is not.
CREATE INDEX runs_workflow ON leasehold.runs (workflow_key, id) WHERE workflow_key > 0;
CREATE INDEX runs_short_id ON leasehold.runs ("right"(id::text, 8));
-- Neither owned nor due: active runs that only jobs move, and those that are stuck. "completed_at" changes with the owner,
-- when a run ends, and with nothing before; so it costs no update its place.
CREATE INDEX runs_idle ON leasehold.runs (id)
WHERE owner IS NULL AND wake_at IS NULL AND parked_reason IS NULL AND completed_at IS NULL;
CREATE INDEX runs_failed ON leasehold.runs (id) WHERE error IS NOT NULL;
CREATE INDEX runs_cancelled ON leasehold.runs (id) WHERE cancelled IS NOT NULL;

CREATE TABLE leasehold.history (
    run_id    uuid NOT NULL,
    append_id uuid NOT NULL,
    session   uuid,
    at        timestamptz NOT NULL,
    seq       integer NOT NULL,
    first_seq integer NOT NULL,
    -- json, not jsonb: what was appended is read back to the byte. jsonb reorders keys and turns 1e22 into an integer.
    events    json NOT NULL,
    bodies    json,
    PRIMARY KEY (run_id, seq)
) PARTITION BY RANGE (run_id);
COMMENT ON TABLE leasehold.history IS 'One row per append, with the facts seq first_seq to seq; insert-only.';
COMMENT ON COLUMN leasehold.history.bodies IS 'Payloads by the sequence number of their fact; larger ones are in the blob store.';

CREATE FUNCTION leasehold.add_history_month(month date) RETURNS text
LANGUAGE plpgsql
-- CREATE ... LIKE and ATTACH block no writer; CREATE ... PARTITION OF would. Idempotent. Returns the partition's name.
AS $$
DECLARE
    partition text := 'history_' || to_char(month, 'YYYY_MM');
    lower uuid := leasehold.lowest_run_id(month::timestamp AT TIME ZONE 'UTC');
    upper uuid := leasehold.lowest_run_id((month + interval '1 month') AT TIME ZONE 'UTC');
BEGIN
    IF to_regclass('leasehold.' || partition) IS NULL THEN
        EXECUTE format('CREATE TABLE leasehold.%I (LIKE leasehold.history INCLUDING ALL)', partition);
        EXECUTE format(
            'ALTER TABLE leasehold.history ATTACH PARTITION leasehold.%I FOR VALUES FROM (%L) TO (%L)',
            partition, lower, upper
        );
    END IF;
    RETURN partition;
END
$$;

DO $$
DECLARE
    first date := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC');
    beyond date := first + interval '7 months';
BEGIN
    FOR ahead IN 0..6 LOOP
        PERFORM leasehold.add_history_month((first + ahead * interval '1 month')::date);
    END LOOP;
    CREATE TABLE leasehold.history_before (LIKE leasehold.history INCLUDING ALL);
    EXECUTE format(
        'ALTER TABLE leasehold.history ATTACH PARTITION leasehold.history_before FOR VALUES FROM (MINVALUE) TO (%L)',
        leasehold.lowest_run_id(first::timestamp AT TIME ZONE 'UTC')
    );
    CREATE TABLE leasehold.history_after (LIKE leasehold.history INCLUDING ALL);
    EXECUTE format(
        'ALTER TABLE leasehold.history ATTACH PARTITION leasehold.history_after FOR VALUES FROM (%L) TO (MAXVALUE)',
        leasehold.lowest_run_id(beyond::timestamp AT TIME ZONE 'UTC')
    );
END
$$;

-- Leases --------------------------------------------------------------------------------------------------------------

CREATE TABLE leasehold.sessions (
    id               uuid PRIMARY KEY,
    registered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    renewed_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_expires_at timestamptz NOT NULL,
    condemned_at     timestamptz,
    refused_at       timestamptz,
    lease            interval NOT NULL,
    direct           boolean NOT NULL DEFAULT false,
    workflow_keys    integer[] NOT NULL,
    queues           text[] NOT NULL DEFAULT '{}',
    info             json NOT NULL
) WITH (fillfactor = 45, autovacuum_vacuum_threshold = 100, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE leasehold.sessions IS 'One process''s right to own runs; never reused. Condemned: its runs may be taken.';
COMMENT ON COLUMN leasehold.sessions.direct IS 'The renewing connection holds an advisory lock, so that a dead process is noticed before its lease ends.';
COMMENT ON COLUMN leasehold.sessions.refused_at IS 'The process was alive after all: it tried to renew a condemned session. Losses at its hand do not count.';

CREATE FUNCTION leasehold.session_lock(session uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ('x' || substr(replace(session::text, '-', ''), 1, 16))::bit(64)::bigint;
COMMENT ON FUNCTION leasehold.session_lock IS 'The advisory lock that a direct session''s renewing connection holds while its process lives.';

CREATE VIEW leasehold.held_session_locks AS
SELECT (l.classid::bigint << 32) | l.objid::bigint AS lock
FROM pg_locks AS l
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());
COMMENT ON VIEW leasehold.held_session_locks IS 'Advisory locks of this database with a single key; looked at, never tried, when a process may be dead.';

CREATE TABLE leasehold.jobs (
    run_id       uuid NOT NULL,
    session      uuid,
    due_at       timestamptz NOT NULL,
    lease_until  timestamptz,
    workflow_key integer NOT NULL,
    lost         integer NOT NULL DEFAULT 0,
    priority     smallint NOT NULL,
    polls        boolean NOT NULL DEFAULT false,
    stage_id     text NOT NULL,
    queue        text NOT NULL,
    token        text,
    PRIMARY KEY (run_id, stage_id)
) WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX jobs_due ON leasehold.jobs (queue, workflow_key, priority, due_at) WHERE token IS NULL;
CREATE INDEX jobs_leased ON leasehold.jobs (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX jobs_session ON leasehold.jobs (session) WHERE session IS NOT NULL;
COMMENT ON TABLE leasehold.jobs IS 'Attempts that are not executed by their run''s own actor, and who leases them.';
COMMENT ON COLUMN leasehold.jobs.token IS 'That of the lease, and of the attempt that is started under it; null: nobody has taken the job.';
COMMENT ON COLUMN leasehold.jobs.lease_until IS 'How long the lease lasts when it is not that of a session.';
COMMENT ON COLUMN leasehold.jobs.polls IS 'The stage is suspended, and its check is to be asked.';

CREATE TABLE leasehold.idempotency_keys (
    command_type text NOT NULL,
    scope        text NOT NULL,
    key          text NOT NULL,
    digest       text NOT NULL,
    run_id       uuid NOT NULL,
    result       json,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (command_type, scope, key)
);
CREATE INDEX idempotency_keys_expiry ON leasehold.idempotency_keys (expires_at);
COMMENT ON TABLE leasehold.idempotency_keys IS 'Which run a caller''s key belongs to; scope is the workflow''s id (create) or the run''s id.';

-- Publishing ----------------------------------------------------------------------------------------------------------

CREATE TABLE leasehold.sinks (
    name          text PRIMARY KEY,
    event_types   text[],
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE leasehold.sinks IS 'Event sinks that must see every event; while there are none, runs are not marked for publishing.';

CREATE TABLE leasehold.deliveries (
    run_id   uuid NOT NULL,
    sink     text NOT NULL,
    replayed integer NOT NULL DEFAULT 0,
    next_seq integer NOT NULL,
    last_seq integer NOT NULL,
    tries    integer NOT NULL DEFAULT 0,
    due_at   timestamptz NOT NULL,
    token    uuid,
    error    text,
    PRIMARY KEY (run_id, sink, replayed)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX deliveries_due ON leasehold.deliveries (sink, due_at);
COMMENT ON TABLE leasehold.deliveries IS 'Events next_seq to last_seq of a run that a sink is owed.';
COMMENT ON COLUMN leasehold.deliveries.replayed IS 'The one event of a dead letter that is tried again, or 0.';
COMMENT ON COLUMN leasehold.deliveries.due_at IS 'When to try (again); while claimed, when the claim ends.';
COMMENT ON COLUMN leasehold.deliveries.token IS 'The claim: only who knows it may say how far the delivery has come.';

CREATE TABLE leasehold.dead_letters (
    id        bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    run_id    uuid NOT NULL,
    seq       integer NOT NULL,
    sink      text NOT NULL,
    error     text NOT NULL,
    tries     integer NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (sink, run_id, seq)
);
COMMENT ON TABLE leasehold.dead_letters IS 'Events that a sink refused too often.';

-- Beside the runs -----------------------------------------------------------------------------------------------------

CREATE TABLE leasehold.logs (
    id        bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    run_id    uuid NOT NULL,
    at        timestamptz NOT NULL,
    execution integer,
    attempt   integer,
    stage_id  text,
    level     text NOT NULL,
    message   text NOT NULL,
    fields    json
);
CREATE INDEX logs_run ON leasehold.logs (run_id, id);
CREATE INDEX logs_progress ON leasehold.logs (run_id, stage_id, id) WHERE level = 'PROGRESS' AND stage_id IS NOT NULL;
COMMENT ON TABLE leasehold.logs IS 'What stage bodies logged, and their progress (level PROGRESS).';

CREATE TABLE leasehold.ai_calls (
    id            uuid PRIMARY KEY,
    run_id        uuid,
    stage_id      text,
    execution     integer,
    attempt       integer,
    at            timestamptz NOT NULL,
    model         text NOT NULL,
    kind          text NOT NULL,
    topic         text,
    input_tokens  bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    cost          numeric NOT NULL DEFAULT 0,
    duration_s    double precision,
    details       json
);
CREATE INDEX ai_calls_run ON leasehold.ai_calls (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX ai_calls_at ON leasehold.ai_calls (at);
COMMENT ON TABLE leasehold.ai_calls IS 'Model calls and what they cost, in USD; each call once.';

CREATE TABLE leasehold.scheduled_commands (
    key         text PRIMARY KEY,
    schedule_id uuid NOT NULL,
    due_at      timestamptz NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'taken', 'failed')),
    tries       integer NOT NULL DEFAULT 0,
    workflow_id text NOT NULL DEFAULT '',
    command     json NOT NULL,
    error       text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX scheduled_commands_due ON leasehold.scheduled_commands (workflow_id, due_at) WHERE state <> 'failed';
CREATE INDEX scheduled_commands_failed ON leasehold.scheduled_commands (due_at) WHERE state = 'failed';
COMMENT ON TABLE leasehold.scheduled_commands IS 'Commands to be dispatched at or after a moment; gone when they have been.';
COMMENT ON COLUMN leasehold.scheduled_commands.schedule_id IS 'Of one scheduling; another one under the same key has another.';
COMMENT ON COLUMN leasehold.scheduled_commands.due_at IS 'When to look at it next: when it is due, its lease ends, or it is tried again.';
COMMENT ON COLUMN leasehold.scheduled_commands.state IS 'waiting; taken by a process that dispatches it; or failed, for the error that is kept.';
COMMENT ON COLUMN leasehold.scheduled_commands.workflow_id IS 'Only a process that knows this workflow can dispatch it; empty: any.';

CREATE TABLE leasehold.maintenance (
    name    text PRIMARY KEY,
    next_at timestamptz NOT NULL,
    session uuid
);
COMMENT ON TABLE leasehold.maintenance IS 'Chores that one process at a time takes in turn.';

CREATE TABLE leasehold.blobs (
    -- Compared byte by byte, so that the keys under a prefix lie together in the primary key's index.
    key        text COLLATE "C" PRIMARY KEY,
    data       bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE leasehold.blobs ALTER COLUMN data SET STORAGE EXTERNAL;
COMMENT ON TABLE leasehold.blobs IS 'Payloads that are too large for history, when Postgres is the blob store.';

-- For people ----------------------------------------------------------------------------------------------------------

CREATE VIEW leasehold.events AS
SELECT h.run_id,
       h.first_seq + fact.place::integer - 1 AS seq,
       h.at,
       fact.value ->> 'type' AS type,
       fact.value ->> 'stage_id' AS stage_id,
       (fact.value ->> 'execution')::integer AS execution,
       (fact.value ->> 'attempt')::integer AS attempt,
       h.session,
       -- What only the engine needs is left out.
       fact.value::jsonb - '{type,stage_id,execution,attempt,plan,fingerprint,token,checked}'::text[] AS data,
       h.bodies -> (h.first_seq + fact.place - 1)::text AS body
FROM leasehold.history AS h
CROSS JOIN LATERAL json_array_elements(h.events) WITH ORDINALITY AS fact (value, place);
COMMENT ON VIEW leasehold.events IS 'The events of a run, one per row. Always filter by run_id: the view unpacks every history row it reads.';

CREATE VIEW leasehold.annotations AS
SELECT h.run_id,
       h.first_seq + fact.place::integer - 1 AS seq,
       h.at,
       fact.value ->> 'key' AS key,
       h.bodies -> (h.first_seq + fact.place - 1)::text AS value,
       coalesce(fact.value ->> 'scope', 'run') AS scope,
       fact.value ->> 'scope_id' AS scope_id,
       fact.value ->> 'stage_id' AS stage_id,
       (fact.value ->> 'execution')::integer AS execution,
       (fact.value ->> 'attempt')::integer AS attempt,
       fact.value ->> 'actor' AS actor,
       (fact.value ->> 'payload')::json AS payload,
       fact.value ->> 'once' AS idempotency_key
FROM leasehold.history AS h
CROSS JOIN LATERAL json_array_elements(h.events) WITH ORDINALITY AS fact (value, place)
WHERE fact.value ->> 'type' = 'annotation.created';
COMMENT ON VIEW leasehold.annotations IS 'What was remarked about a run, by its bodies and by anybody else; actor is kind[:id[:version]]. Always filter by run_id.';

CREATE VIEW leasehold.stages AS
WITH told AS NOT MATERIALIZED (
    SELECT h.run_id, h.first_seq + fact.place::integer - 1 AS seq, h.at, fact.value
    FROM leasehold.history AS h
    CROSS JOIN LATERAL json_array_elements(h.events) WITH ORDINALITY AS fact (value, place)
), changes AS (
    -- Every stage begins with its run, and begins again with a rerun that discards it.
    SELECT t.run_id, t.seq, t.at, stage ->> 'id' AS stage_id, 'planned' AS type, 1 AS execution, 0 AS attempt, t.value
    FROM told AS t
    CROSS JOIN LATERAL json_array_elements(t.value -> 'plan' -> 'groups') AS grouped
    CROSS JOIN LATERAL json_array_elements(grouped -> 'stages') AS stage
    WHERE t.value ->> 'type' = 'run.created'
    UNION ALL
    SELECT t.run_id, t.seq, t.at, discarded, 'planned', NULL, 0, t.value
    FROM told AS t
    CROSS JOIN LATERAL json_array_elements_text(t.value -> 'discarded') AS discarded
    WHERE t.value ->> 'type' = 'run.rerun'
    UNION ALL
    SELECT t.run_id, t.seq, t.at, t.value ->> 'stage_id', t.value ->> 'type',
           (t.value ->> 'execution')::integer, (t.value ->> 'attempt')::integer, t.value
    FROM told AS t
    WHERE t.value ->> 'type' LIKE 'stage.%'
), executions AS (
    SELECT c.*, count(*) FILTER (WHERE c.type = 'planned') OVER so_far AS number
    FROM changes AS c
    WINDOW so_far AS (PARTITION BY c.run_id, c.stage_id ORDER BY c.seq)
)
SELECT DISTINCT ON (run_id, stage_id)
       run_id,
       stage_id,
       number::integer AS execution,
       -- Of the attempts that were started: an end names one that never was as well.
       coalesce(max(attempt) FILTER (WHERE type = 'stage.started') OVER latest, 0) AS attempt,
       CASE type
           WHEN 'stage.started' THEN 'RUNNING'
           WHEN 'stage.completed' THEN 'COMPLETED'
           WHEN 'stage.failed' THEN 'FAILED'
           WHEN 'stage.suspended' THEN 'SUSPENDED'
           WHEN 'stage.cancelled' THEN 'CANCELLED'
           WHEN 'stage.skipped' THEN 'SKIPPED'
           ELSE 'PENDING'
       END AS status,
       max(at) FILTER (WHERE type = 'stage.started') OVER latest AS started_at,
       CASE WHEN type IN ('stage.completed', 'stage.failed', 'stage.cancelled', 'stage.skipped') THEN at END AS completed_at,
       CASE WHEN type IN ('stage.scheduled', 'stage.retrying') THEN (value ->> 'due_at')::timestamptz END AS due_at,
       CASE WHEN type = 'stage.suspended' THEN coalesce(
           -- A look that found nothing has moved the next one without an event.
           (
               SELECT (r.poll_state -> stage_id ->> 'next_poll_at')::timestamptz
               FROM leasehold.runs AS r
               WHERE r.id = run_id AND (r.poll_state -> stage_id ->> 'seq')::integer = seq
           ),
           (value ->> 'next_poll_at')::timestamptz
       ) END AS next_poll_at,
       (value ->> 'duration_s')::double precision AS duration_s,
       value -> 'error' AS error,
       value -> 'metrics' AS metrics
FROM executions
WINDOW latest AS (PARTITION BY run_id, stage_id, number ORDER BY seq)
ORDER BY run_id, stage_id, seq DESC;
COMMENT ON VIEW leasehold.stages IS 'The stages of a run as they are now, in their current execution. Always filter by run_id.';

CREATE FUNCTION leasehold.create_run(
    workflow_id      text,
    input            json DEFAULT 'null',
    config           json DEFAULT NULL,
    idempotency_key  text DEFAULT NULL,
    priority         integer DEFAULT 5,
    metadata         json DEFAULT NULL,
    run_at           timestamptz DEFAULT NULL,
    workflow_version text DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql
-- Creates a run inside the caller's own transaction: it exists when that commits. The newest version of the workflow
-- is taken when none is named. What no reader could make sense of is refused. Whether input and configuration are what
-- the workflow wants is not looked at here: whoever drives the run first does that ("checked": false), and fails it.
--
-- No notification is sent: NOTIFY in a transaction takes a lock of the whole cluster when it commits (and cannot be
-- prepared), which is not ours to put into somebody else's transaction. The run is found by the next look, within a
-- second; who is in a hurry says NOTIFY leasehold after the commit.
--
-- A key that exists answers with its run when the payload is the same, and raises unique_violation when it differs.
-- A key that the Python interface created answers without comparing: its digest is of another canonical form.
AS $$
#variable_conflict use_column
DECLARE
    flow leasehold.workflows;
    run uuid := leasehold.mint_run_id();
    payload_digest text := 'sql:' || encode(sha256(convert_to(
        jsonb_build_array(create_run.input, coalesce(create_run.config, '{}'))::text, 'UTF8')), 'hex');
    holder leasehold.idempotency_keys;
    moment timestamptz := clock_timestamp();
BEGIN
    IF create_run.priority IS NULL OR create_run.priority NOT BETWEEN 0 AND 9 THEN
        RAISE EXCEPTION 'priority must be 0 to 9, and is %', coalesce(create_run.priority::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF json_typeof(create_run.config) <> 'object' THEN
        RAISE EXCEPTION 'config must be a JSON object, and is of type %', json_typeof(create_run.config)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It maps stages to their values: {"STAGE": {"FIELD": 1}}';
    END IF;
    IF json_typeof(create_run.metadata) <> 'object' THEN
        RAISE EXCEPTION 'metadata must be a JSON object, and is of type %', json_typeof(create_run.metadata)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Readers know no others: not every language has an infinity, or a year before the first.
    IF create_run.run_at < '0001-01-02 UTC' OR create_run.run_at >= '9999-12-31 UTC' THEN
        RAISE EXCEPTION 'run_at must lie in the years 1 to 9999, and is %', create_run.run_at
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out to run at once.';
    END IF;
    IF jsonb_path_exists(
        jsonb_build_array(create_run.input, create_run.config, create_run.metadata), 'strict $.**{102}'
    ) THEN
        RAISE EXCEPTION 'input, config or metadata is nested deeper than 100 levels'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO flow FROM leasehold.workflows AS w
    WHERE w.id = create_run.workflow_id
      AND (create_run.workflow_version IS NULL OR w.version = create_run.workflow_version)
    ORDER BY w.workflow_key DESC
    LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'workflow "%"% is not registered', create_run.workflow_id,
            coalesce(' version "' || create_run.workflow_version || '"', '')
            USING ERRCODE = 'no_data_found', HINT = 'A process that knows the workflow registers it when it opens.';
    END IF;
    IF create_run.idempotency_key IS NOT NULL THEN
        IF btrim(create_run.idempotency_key) = '' OR octet_length(create_run.idempotency_key) > 1000 THEN
            RAISE EXCEPTION 'idempotency_key must have 1 to 1000 bytes, and has %',
                octet_length(create_run.idempotency_key)
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out, or use a digest of it.';
        END IF;
        DELETE FROM leasehold.idempotency_keys AS k
        WHERE (k.command_type, k.scope, k.key) = ('run.create', create_run.workflow_id, create_run.idempotency_key)
          AND k.expires_at < clock_timestamp();
        INSERT INTO leasehold.idempotency_keys (command_type, scope, key, digest, run_id, expires_at)
        VALUES ('run.create', create_run.workflow_id, create_run.idempotency_key, payload_digest, run,
                clock_timestamp() + interval '30 days')
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT * INTO holder FROM leasehold.idempotency_keys AS k
            WHERE (k.command_type, k.scope, k.key) = ('run.create', create_run.workflow_id, create_run.idempotency_key);
            IF NOT FOUND THEN
                -- Only a snapshot that is older than the other transaction's commit fails to see the winner.
                RAISE EXCEPTION 'idempotency key "%" is being created by another transaction', create_run.idempotency_key
                    USING ERRCODE = 'serialization_failure';
            END IF;
            IF holder.digest LIKE 'sql:%' AND holder.digest <> payload_digest THEN
                RAISE EXCEPTION 'idempotency key "%" already belongs to run "%", created from another payload',
                    create_run.idempotency_key, holder.run_id
                    USING ERRCODE = 'unique_violation', HINT = 'Use another key, or send the payload of that run.';
            END IF;
            RETURN holder.run_id;
        END IF;
    END IF;
    INSERT INTO leasehold.runs (
        id, wake_at, publish_at, run_at, created_at, updated_at, workflow_key, seq, format, priority, status, phase,
        fingerprint, idempotency_key, metadata
    ) VALUES (
        run, greatest(create_run.run_at, moment),
        CASE WHEN EXISTS (SELECT FROM leasehold.sinks) THEN moment END,
        create_run.run_at, moment, moment, flow.workflow_key, 1, 1, create_run.priority, 'PENDING',
        CASE WHEN create_run.run_at IS NULL THEN 'pending' ELSE 'delayed' END,
        flow.fingerprint, create_run.idempotency_key, create_run.metadata
    );
    INSERT INTO leasehold.history (run_id, append_id, at, seq, first_seq, events, bodies)
    VALUES (
        run, gen_random_uuid(), moment, 1, 1,
        json_build_array(json_build_object(
            'workflow_id', flow.id,
            'workflow_version', flow.version,
            'fingerprint', flow.fingerprint,
            'plan', flow.plan,
            'priority', create_run.priority,
            -- In one form, whatever the zone of the caller.
            'run_at', to_char(create_run.run_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'config', coalesce(create_run.config, '{}'),
            'checked', false,
            'type', 'run.created'
        )),
        json_build_object('1', create_run.input)
    );
    RETURN run;
END
$$;
COMMENT ON FUNCTION leasehold.create_run IS 'Create a run in the caller''s transaction and return its id.';
