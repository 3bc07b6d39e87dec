"""Whatever is logged for a run says for which, wherever and by whatever means it is said."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import anyio
import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from structlog.testing import LogCapture

from telemetry.logs import (
    RunIds,
    add_run_ids,
    bind_run,
    configure_logging,
    configured_logging,
    current_ids,
    get_logger,
    log_fields,
)
from tests.runtime.executing import Bench
from tests.runtime.gates import Doc, echo
from tests.runtime.shared_store import SharedStore
from tests.telemetry import speaking_stages as stages
from tests.telemetry.trees import Sent

IDS = {"run_id": "run-1", "stage_id": "in-a-thread", "attempt": 1}


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.anyio
@pytest.mark.parametrize("stage", [stages.in_the_loop, stages.in_a_thread], ids=lambda stage: stage.id)
async def test_a_body_that_logs_by_structlog_or_by_logging_says_whose_it_is(stage) -> None:
    configure_logging("json", "info", stream=(stream := io.StringIO()))

    await Bench().run(stage, None)

    mine, theirs = (json.loads(line) for line in stream.getvalue().splitlines())
    assert mine["event"] == "by structlog"
    assert theirs["event"] == "by logging"
    for line in (mine, theirs):
        assert (line["stage_id"], line["attempt"]) == (stage.id, 1)
        assert line["run_id"]
        assert line["workflow_id"]


@pytest.mark.anyio
@pytest.mark.processes
async def test_a_body_in_a_child_interpreter_logs_in_the_form_of_its_parent(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info", fields={"worker": 2})
    bench = Bench()

    async with bench.serving():
        with log_fields(session_id="s-1"):
            await bench.run(stages.in_a_child, None)

    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["by structlog", "by logging"]
    for line in lines:
        assert (line["stage_id"], line["attempt"], line["session_id"], line["worker"]) == ("in-a-child", 1, "s-1", 2)


@pytest.mark.anyio
async def test_tasks_and_threads_of_a_run_inherit_its_ids_and_others_do_not() -> None:
    seen: list[object] = []

    async def actor(run_id: str) -> None:
        bind_run(run_id, "documents", "session-1")
        await anyio.to_thread.run_sync(lambda: seen.append(dict(current_ids())))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(actor, "run-1")

    assert seen == [{"run_id": "run-1", "workflow_id": "documents", "session_id": "session-1"}]
    assert current_ids() == {}


def test_what_a_line_says_itself_counts_and_the_current_span_is_named() -> None:
    configure_logging("json", "info", stream=(stream := io.StringIO()))
    tracer = TracerProvider().get_tracer("test")

    with tracer.start_as_current_span("stage") as span, log_fields(**IDS):
        get_logger().info("stage.retrying", attempt=2)

    line = json.loads(stream.getvalue())
    assert (line["run_id"], line["attempt"]) == ("run-1", 2)
    assert (line["trace_id"], line["span_id"]) == (
        f"{span.get_span_context().trace_id:032x}",
        f"{span.get_span_context().span_id:016x}",
    )


def test_embedded_the_engines_own_lines_have_the_ids_in_text_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), log_fields(**IDS, session_id=None):
        get_logger("leasehold.runtime").info("stage.retrying", attempt=2)

    [record] = caplog.records
    assert record.getMessage() == "stage.retrying attempt=2 run_id=run-1 stage_id=in-a-thread"
    assert record.leasehold == {"attempt": 2, "run_id": "run-1", "stage_id": "in-a-thread"}


def test_a_program_with_its_own_structlog_adds_the_ids_by_a_processor() -> None:
    said: list[dict[str, object]] = []

    def keep(_logger: object, _method: str, event: dict[str, object]) -> str:
        said.append(event)
        return ""

    structlog.configure(processors=[add_run_ids, keep], logger_factory=structlog.ReturnLoggerFactory())

    with log_fields(**IDS):
        structlog.get_logger().info("hello", stage_id="mine")

    assert said == [{"event": "hello", "run_id": "run-1", "stage_id": "mine", "attempt": 1}]


def test_a_program_with_its_own_handlers_adds_the_ids_by_a_filter() -> None:
    handler = logging.StreamHandler(stream := io.StringIO())
    handler.addFilter(RunIds())
    handler.setFormatter(logging.Formatter("%(run_id)s/%(stage_id)s/%(trace_id)s %(message)s"))
    logger = logging.getLogger("theirs")
    logger.addHandler(handler)

    with log_fields(**IDS):
        logger.warning("inside")
    logger.warning("outside")
    logger.removeHandler(handler)

    assert stream.getvalue() == "run-1/in-a-thread/ inside\n// outside\n"


def test_what_was_chosen_for_the_log_can_be_told_to_another_process() -> None:
    configure_logging("json", "warning", stream=io.StringIO(), fields={"worker": 1})

    assert json.loads(json.dumps(configured_logging())) == {
        "format": "json",
        "level": "warning",
        "fields": {"worker": 1},
    }


@pytest.mark.anyio
async def test_what_a_host_says_of_a_run_carries_the_ids_of_its_trace(
    memory: SharedStore, sent: Sent, log: LogCapture
) -> None:
    workflow = echo()
    async with memory.host(workflow) as host:
        run = await host.start(workflow, Doc(text="x"))
        await host.run_maintenance_tick()
        await host.process_available_jobs()

    [line] = [line for line in log.entries if line["event"] == "run.completed"]
    execute = sent.named("job.execute")[0]
    assert (line["run_id"], line["trace_id"]) == (run.id, f"{execute.context.trace_id:032x}")
    assert line["span_id"] == f"{execute.context.span_id:016x}"
