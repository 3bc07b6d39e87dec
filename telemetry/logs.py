"""How the engine speaks to operators: log events that are past-tense facts, with ids as fields.

The engine's own modules take a logger from `get_logger` and say `logger.info("run.claimed", run_id=...)`. Nothing is
configured by that: in somebody else's program an event goes where that program sends its own, through structlog if it
has configured structlog, else through the standard library's `logging` under the name "leasehold...". Only the command
line, which owns its process, calls `configure_logging`.

Payloads are never fields, and tracebacks never show local variables, because those would be payloads.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["EventLogger", "configure_logging", "get_logger"]

ROOT = "leasehold"


class EventLogger:
    """Logs events with fields. Plain calls that never wait; which event loop runs, if any, does not matter.

    Not structlog's own logger, for two reasons: that one prints to standard output in a program that has not
    configured it, and importing structlog costs more than many a command does.
    """

    __slots__ = ("_bound", "_name")

    def __init__(self, name: str, bound: Mapping[str, object] | None = None) -> None:
        self._name = name
        self._bound = dict(bound or {})

    def bind(self, **fields: object) -> EventLogger:
        """A logger that adds these fields to every event."""
        return EventLogger(self._name, {**self._bound, **fields})

    def debug(self, event: str, /, **fields: object) -> None:
        """Something for those who look for a defect."""
        self._log("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Something that happens in ordinary operation."""
        self._log("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Something that the engine copes with, and an operator may want to know."""
        self._log("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Something that an operator has to know."""
        self._log("error", event, fields)

    def critical(self, event: str, /, **fields: object) -> None:
        """Something after which this process cannot go on."""
        self._log("critical", event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the traceback of the exception that is being handled."""
        self._log("error", event, {"exc_info": True, **fields})

    def _log(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        fields = {**self._bound, **fields}
        structlog = sys.modules.get("structlog")
        if structlog is not None and structlog.is_configured():
            getattr(structlog.get_logger(self._name), level)(event, **fields)
            return
        exc_info: Any = fields.pop("exc_info", None)
        text = " ".join([event, *(f"{name}={value}" for name, value in fields.items())])
        number = logging.getLevelNamesMapping()[level.upper()]
        # One argument, so that a "%" in the text is not taken for a place to fill in.
        logging.getLogger(self._name).log(number, "%s", text, exc_info=exc_info, extra={ROOT: fields})


def get_logger(name: str = ROOT) -> EventLogger:
    """A logger of the engine; `name` is where it stands, such as "leasehold.runtime"."""
    return EventLogger(name)


# -- for the command line ----------------------------------------------------------------------------------------------


def configure_logging(
    format: Literal["console", "json"],
    level: str,
    *,
    stream: TextIO | None = None,
    colour: bool | None = None,
    fields: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Write everything of at least `level` to `stream` (standard error), a line per event.

    "console" is for eyes, "json" for machines: one object per line with `timestamp level event logger` and the fields.
    Records of the standard library's `logging` come out in the same form. `colour` None: when the stream is a terminal.
    `fields` are in every line, such as which of several processes says it.
    """
    import structlog

    target: TextIO = stream or sys.stderr
    if colour is None:
        colour = target.isatty() and not os.environ.get("NO_COLOR")
    # People compare with the clock on their wall, machines with other machines.
    stamp = structlog.processors.TimeStamper(
        fmt="iso" if format == "json" else "%H:%M:%S", utc=format == "json", key="timestamp"
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        # Not by a context variable: threads of our own speak too.
        lambda _logger, _method, event: {**fields, **event},
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_span,
        stamp,
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(format, colour=colour)],
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _renderers(format: Literal["console", "json"], *, colour: bool) -> Sequence[Processor]:
    import structlog

    if format == "json":
        return [
            structlog.processors.format_exc_info,
            _event_first,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    console = structlog.dev.ConsoleRenderer(
        colors=colour, pad_event_to=24, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )
    return [_without_logger_name, console]


def _event_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Order the fields so that a line can be read from its left end."""
    known = ("timestamp", "level", "event", "logger")
    return {name: event[name] for name in (*known, *event) if name in event}


def _without_logger_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Our own events have names that say whose they are; only those of other libraries need their logger's."""
    if str(event.get("logger", "")).partition(".")[0] == ROOT:
        del event["logger"]
    return event


def _add_span(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Name the current span, if anybody in this process makes spans."""
    if (trace := sys.modules.get("opentelemetry.trace")) is not None:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            event["trace_id"] = f"{span.trace_id:032x}"
            event["span_id"] = f"{span.span_id:016x}"
    return event
