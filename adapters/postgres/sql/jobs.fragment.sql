), job_changes AS MATERIALIZED (
    -- What these appends change about the jobs of their runs; whoever changes jobs by an append holds the run's lock.
    SELECT m.run_id, m.workflow_key, m.priority, c.stage_id, c.queue, c.due_at, c.polls, c.lost
    FROM {source} AS m
    CROSS JOIN LATERAL json_to_recordset(m.jobs) AS c (
        stage_id text, queue text, due_at timestamptz, polls boolean, lost integer
    )
), withdrawn AS (
    DELETE FROM leasehold.jobs AS j
    USING job_changes AS c
    WHERE c.queue IS NULL AND j.run_id = c.run_id AND j.stage_id = c.stage_id
), enqueued AS (
    INSERT INTO leasehold.jobs (run_id, stage_id, workflow_key, priority, queue, due_at, polls, lost)
    SELECT run_id, stage_id, workflow_key, priority, queue, coalesce(due_at, clock_timestamp()), polls, lost
    FROM job_changes
    WHERE queue IS NOT NULL
    ORDER BY run_id, stage_id
    ON CONFLICT (run_id, stage_id) DO UPDATE
    SET token = NULL,
        session = NULL,
        lease_until = NULL,
        queue = excluded.queue,
        due_at = excluded.due_at,
        polls = excluded.polls,
        lost = excluded.lost
