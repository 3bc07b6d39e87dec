"""How the engine speaks to operators: log events that are past-tense facts, with ids as fields.

The engine's own modules take a logger from `get_logger` and say `logger.info("run.claimed", run_id=...)`. Nothing is
configured by that: in somebody else's program an event goes where that program sends its own, through structlog if it
has configured structlog, else through the standard library's `logging` under the name "leasehold...". Only the command
line, which owns its process, calls `configure_logging`.

Whatever is logged while a run is driven or a body executes carries the run's ids, wherever it is said: by the engine,
by a stage's own structlog or `logging` calls, in the event loop, in a thread, in a child interpreter. They stand in one
context variable, which tasks and threads inherit; `log_fields` sets them, `add_run_ids` and `RunIds` put them into the
lines of a program that configures its own logging.

Payloads are never fields, and tracebacks never show local variables, because those would be payloads.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypedDict

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = [
    "EventLogger",
    "LoggingChoice",
    "RunIds",
    "add_run_ids",
    "bind_run",
    "configure_logging",
    "configured_logging",
    "current_ids",
    "get_logger",
    "log_fields",
]

ROOT = "leasehold"
ID_FIELDS = ("run_id", "workflow_id", "stage_id", "attempt", "session_id", "trace_id", "span_id")
"""What lines carry, as far as there is something to name."""

_NOTHING: Mapping[str, object] = MappingProxyType({})
_ids: ContextVar[Mapping[str, object]] = ContextVar("leasehold_log_ids", default=_NOTHING)


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
        # The ids last, where the eye finds them without looking for the rest; what the line says itself counts.
        fields = {**self._bound, **fields}
        if ids := _ids.get():
            fields.update((name, value) for name, value in ids.items() if value is not None and name not in fields)
        structlog = sys.modules.get("structlog")
        if structlog is not None and structlog.is_configured():
            try:
                getattr(structlog.get_logger(self._name), level)(event, **fields)
            except Exception as error:  # noqa: BLE001 - the program's processors; what is said has happened all the same
                fields["unsaid"] = f"{type(error).__name__}: {error}"
            else:
                return
        exc_info: Any = fields.pop("exc_info", None)
        text = " ".join([event, *(f"{name}={_quoted(value)}" for name, value in fields.items())])
        number = logging.getLevelNamesMapping()[level.upper()]
        # One argument, so that a "%" in the text is not taken for a place to fill in.
        logging.getLogger(self._name).log(number, "%s", text, exc_info=exc_info, extra={ROOT: fields})


def _quoted(value: object) -> str:
    """A field's value as one word, in quotes where it has blanks, so that people see where the next field begins."""
    text = str(value)
    return text if text and not any(c.isspace() or c in '"=' for c in text) else json.dumps(text, ensure_ascii=False)


def get_logger(name: str = ROOT) -> EventLogger:
    """A logger of the engine; `name` is where it stands, such as "leasehold.runtime"."""
    return EventLogger(name)


# -- whose lines they are ----------------------------------------------------------------------------------------------


def bind_run(run_id: str, workflow_id: str | None = None, session_id: str | None = None) -> None:
    """From here on, whatever the current task and what it starts log carries these ids."""
    _ids.set({"run_id": run_id, "workflow_id": workflow_id, "session_id": session_id})


class log_fields:  # noqa: N801 - a context manager, written as a class because one is entered for every body
    """While it is entered, lines carry these fields besides those around it; None leaves one out."""

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: object) -> None:
        self._fields = fields
        self._token: Token[Mapping[str, object]] | None = None

    def __enter__(self) -> None:
        self._token = _ids.set({**_ids.get(), **self._fields})

    def __exit__(self, *_: object) -> None:
        assert self._token is not None, "entered"
        _ids.reset(self._token)


def current_ids() -> Mapping[str, object]:
    """The ids that a line said here would carry: of the run, and of the current span if there is one."""
    ids = {name: value for name, value in _ids.get().items() if value is not None}
    # Whoever makes spans has imported it.
    if (trace := sys.modules.get("opentelemetry.trace")) is not None:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            ids["trace_id"] = f"{span.trace_id:032x}"
            ids["span_id"] = f"{span.span_id:016x}"
    return ids


def add_run_ids(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that adds the current ids: `structlog.configure(processors=[..., add_run_ids, ...])`.

    Fields: `run_id workflow_id stage_id attempt session_id trace_id span_id`, as far as there are any. What a line
    names itself stays as it is.
    """
    for name, value in current_ids().items():
        event.setdefault(name, value)
    return event


class RunIds(logging.Filter):
    """Gives records of the standard library's `logging` the same ids as attributes: `handler.addFilter(RunIds())`.

    All seven are always there, so that a format string may name them; "" where there is nothing to name.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them; every record passes."""
        ids = current_ids()
        for name in ID_FIELDS:
            if not hasattr(record, name):
                setattr(record, name, ids.get(name, ""))
        return True


# -- for the command line ----------------------------------------------------------------------------------------------


class LoggingChoice(TypedDict):
    """What `configure_logging` was told, as another process needs it; JSON."""

    format: Literal["console", "json"]
    level: str
    fields: Mapping[str, object]


_choice: LoggingChoice | None = None


def configured_logging() -> LoggingChoice | None:
    """How this process's command line writes its log; None when it is not ours to say."""
    return _choice


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

    global _choice  # noqa: PLW0603 - logging is the process's, and so is what was chosen for it
    _choice = LoggingChoice(format=format, level=level, fields=dict(fields))
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
        add_run_ids,
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
    handler = _StandardError() if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is just now: a live display takes its place, and puts lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """Standard error."""
        return sys.stderr


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
