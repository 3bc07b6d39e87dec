from __future__ import annotations

from datetime import UTC, datetime

import pytest

from adapters.sinks import LogSink, log_events
from kernel import ErrorInfo
from kernel.events import RunCompleted, StageFailed

pytestmark = pytest.mark.anyio

AT = datetime(2025, 1, 1, tzinfo=UTC)


class Lines:
    """Stands where a logger does."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, /, **fields: object) -> None:
        self.said.append(("info", event, fields))

    def warning(self, event: str, /, **fields: object) -> None:
        self.said.append(("warning", event, fields))


async def test_an_event_is_a_line_with_ids_and_figures_and_without_payload() -> None:
    lines = Lines()
    completed = RunCompleted(
        run_id="r", seq=9, at=AT, output={"secret": 1}, duration_s=1.5, total_cost="0.1", total_tokens=3
    )

    await LogSink(lines).publish(completed)  # type: ignore[arg-type]

    figures = {"duration_s": 1.5, "total_cost": "0.1", "total_tokens": 3}
    assert lines.said == [("info", "run.completed", {"run_id": "r", "seq": 9, "at": AT.isoformat(), **figures})]


async def test_a_failure_is_a_warning_with_the_error_s_type_alone() -> None:
    lines = Lines()
    error = ErrorInfo(type="ValueError", message="secret", retryable=False)
    failed = StageFailed(run_id="r", seq=4, at=AT, stage_id="extract", execution=1, attempt=3, error=error)

    await LogSink(lines).publish(failed)  # type: ignore[arg-type]

    ((level, event, fields),) = lines.said
    assert (level, event, fields["error"], fields["stage_id"]) == ("warning", "stage.failed", "ValueError", "extract")
    assert "secret" not in str(fields)


def test_a_sink_of_the_log_takes_some_events_or_all() -> None:
    assert log_events(events=["run.failed"]).events == {"run.failed"}
    assert "stage.started" in (log_events().events or ())
