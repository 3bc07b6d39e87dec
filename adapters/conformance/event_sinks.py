"""The promises of an `EventSink`: whatever event it is given, when `publish` has returned the event has arrived.

What arrives is seen by the receiver alone, so a check is also given `arrived`, which tells the run and `seq` of every
event at the receiver, in the order in which they came; one that came twice may stand there twice or once. Every check
publishes events of runs of its own, and so wants neither a sink nor a receiver to be new.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import uuid4

from anyio import CancelScope, create_task_group

from adapters.conformance.promises import expect
from kernel import events
from kernel.errors import ErrorInfo
from kernel.events import Event
from kernel.ports.sinks import EventSink

__all__ = ["EVENT_SINK_CHECKS", "Arrived", "EventSinkCheck", "one_of_each"]

Arrived: TypeAlias = Callable[[], Awaitable[Sequence[tuple[str, int]]]]
EventSinkCheck: TypeAlias = Callable[[EventSink, Arrived], Awaitable[None]]

_AT = datetime(2025, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)
_ERROR = ErrorInfo(type="ValueError", message='no "such" file: ß', traceback="Traceback ...", retryable=False)


def one_of_each(run_id: str) -> list[Event]:
    """An event of every type that sinks are given, with `seq` from 1."""
    stage: dict[str, Any] = {"stage_id": "extract", "execution": 1, "attempt": 2}
    of: dict[str, Any] = {"run_id": run_id, "seq": 1, "at": _AT}
    made: list[Event] = [
        events.RunCreated(**of, workflow_id="documents", workflow_version="1"),
        events.RunStarted(**of, owner="s1"),
        events.RunOwnerChanged(**of, owner="s2", cause="expired"),
        events.StageScheduled(**of, **stage, queue="gpu", due_at=_AT),
        events.StageStarted(**of, **stage),
        events.StepRecorded(**of, stage_id="extract", execution=1, position=0, name="fetch"),
        events.StageRetrying(**of, **stage, error=_ERROR, due_at=_AT, cause="raised"),
        events.StageSuspended(**of, **stage, next_poll_at=_AT, max_wait_until=_AT),
        events.StageCompleted(**of, **stage, output={"n": 1}, duration_s=0.5, metrics={"pages": 3.0}),
        events.StageFailed(**of, **stage, error=_ERROR),
        events.StageCancelled(**of, **stage),
        events.StageSkipped(**of, **stage, reason="the run failed"),
        events.AnnotationCreated(**of, key="note", value=[1, None], scope="run", actor="user:Ada"),
        events.RunFailed(**of, error=_ERROR, stage_id="extract"),
        events.RunRerun(**of, from_stage_id="extract", discarded=("extract",)),
        events.RunCompleted(**of, output="done", duration_s=1.5, total_cost="0.3", total_tokens=7),
        events.RunCancelled(**of, reason=None),
    ]
    return [replace(event, seq=seq) for seq, event in enumerate(made, start=1)]


async def check_an_event_of_every_type_arrives(sink: EventSink, arrived: Arrived) -> None:
    """In the order in which they were published, none left out."""
    published = one_of_each(_a_run())
    for event in published:
        await sink.publish(event)

    await _expect_arrived(arrived, published[0].run_id, len(published))


async def check_what_was_published_has_arrived_when_publish_returns(sink: EventSink, arrived: Arrived) -> None:
    """A sink that only remembers to send it would lose it with its process."""
    run_id = _a_run()
    for seq in (1, 2, 3):
        await sink.publish(_completed(run_id, seq))
        await _expect_arrived(arrived, run_id, seq)


async def check_an_event_that_comes_again_is_taken(sink: EventSink, arrived: Arrived) -> None:
    """After a crash, what was published but not yet settled comes again, from the first of it on."""
    run_id = _a_run()
    for seq in (1, 2, 1, 2, 3):
        await sink.publish(_completed(run_id, seq))

    await _expect_arrived(arrived, run_id, 3)


async def check_large_and_odd_payloads_arrive(sink: EventSink, arrived: Arrived) -> None:
    """A hundred thousand characters, every character that JSON escapes, and other scripts."""
    run_id = _a_run()
    for seq, output in enumerate(("x" * 100_000, "".join(map(chr, range(1, 256))), '漢字 😀 \\ " / \u2028'), start=1):
        await sink.publish(_completed(run_id, seq, output))

    await _expect_arrived(arrived, run_id, 3)


async def check_runs_at_once_stay_in_order(sink: EventSink, arrived: Arrived) -> None:
    """Several runs are published side by side, each in order."""
    runs = [_a_run() for _ in range(8)]

    async def publish(run_id: str) -> None:
        for seq in range(1, 6):
            await sink.publish(_completed(run_id, seq))

    async with create_task_group() as group:
        for run_id in runs:
            group.start_soon(publish, run_id)

    for run_id in runs:
        await _expect_arrived(arrived, run_id, 5)


async def check_a_try_that_was_cancelled_can_be_made_again(sink: EventSink, arrived: Arrived) -> None:
    """A try that takes too long is cancelled; the sink must be able to go on with the same event."""
    run_id = _a_run()
    with CancelScope() as trying:
        trying.cancel()
        await sink.publish(_completed(run_id, 1))

    for seq in (1, 2):
        await sink.publish(_completed(run_id, seq))

    await _expect_arrived(arrived, run_id, 2)


def _a_run() -> str:
    return str(uuid4())


def _completed(run_id: str, seq: int, output: object = None) -> Event:
    return events.RunCompleted(
        run_id=run_id, seq=seq, at=_AT, output=output, duration_s=1.5, total_cost="0", total_tokens=0
    )


async def _expect_arrived(arrived: Arrived, run_id: str, last: int) -> None:
    """Without what came again, the run's events are those from 1 to `last`, in order."""
    came = dict.fromkeys(seq for run, seq in await arrived() if run == run_id)
    expect("the events of a run arrive, each after the one before it", list(came), list(range(1, last + 1)))


EVENT_SINK_CHECKS: tuple[EventSinkCheck, ...] = (
    check_an_event_of_every_type_arrives,
    check_what_was_published_has_arrived_when_publish_returns,
    check_an_event_that_comes_again_is_taken,
    check_large_and_odd_payloads_arrive,
    check_runs_at_once_stay_in_order,
    check_a_try_that_was_cancelled_can_be_made_again,
)
