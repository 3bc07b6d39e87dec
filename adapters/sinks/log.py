"""Events as lines of the log: what happened to which run and stage, and no payload."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from kernel.errors import ErrorInfo
from kernel.events import LIVE_ONLY, Event, EventType, event_types
from kernel.ports.sinks import Sink
from telemetry.logs import EventLogger, get_logger

__all__ = ["LogSink", "log_events"]

_SHOWN = (
    *("stage_id", "execution", "attempt", "workflow_id", "workflow_version", "owner", "cause", "queue"),
    *("duration_s", "total_cost", "total_tokens", "from_stage_id", "name", "key", "scope"),
)
_BAD: tuple[EventType, ...] = ("run.failed", "stage.failed")


class LogSink:
    """`EventSink` that logs under the name `leasehold.events`, failures as warnings; never refuses."""

    def __init__(self, logger: EventLogger | None = None) -> None:
        self._logger = logger or get_logger("leasehold.events")

    async def publish(self, event: Event, /) -> None:
        """Log the event with its ids and figures; of an error its type."""
        shown = {name: getattr(event, name, None) for name in _SHOWN}
        fields = {name: value for name, value in shown.items() if value is not None}
        error = getattr(event, "error", None)
        if isinstance(error, ErrorInfo):
            fields["error"] = error.type
        say = self._logger.warning if event.type in _BAD else self._logger.info
        say(event.type, run_id=event.run_id, seq=event.seq, at=event.at.isoformat(), **fields)


def log_events(*, name: str = "log", events: Collection[EventType] | None = None) -> Sink:
    """Log events, for `App(sinks=[log_events()])`; all of them, or those of these types.

    Each event is logged by one process, once, unless that process dies meanwhile. Raises: InvalidCommand.
    """
    every = frozenset[EventType](get_args(EventType)) - LIVE_ONLY
    wanted = every if events is None else event_types(f'Sink "{name}"', events, field="events")
    return Sink(name=name, open=LogSink, events=wanted)
