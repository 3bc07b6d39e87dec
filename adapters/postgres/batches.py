"""Appends on their way: one `Item` each, and how a batch of them becomes the parameters of one statement.

Three statements carry all modes: `create`; `owned` with release and park; `foreign` with unpark, dispatch, and the park
of a run without an owner; `poll` goes with the owner's when it names a lease, else with the foreign ones. Each has a
second form for appends that change jobs, which go in batches of their own. Items of one `Kind` may share a batch. The
arrays are in the order of run ids.

Pure: knows the statements' parameters and what their answers mean; waits for nothing and holds no connection.
"""

from __future__ import annotations

import json
import re
from asyncio import Future
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from adapters.postgres.payloads import error_text, json_text, mapping_text, plain_text
from kernel.errors import InvalidCommand, LeaseLost, PayloadRefused, RunNotFound
from kernel.model.ids import is_run_id
from kernel.model.jobs import JobChanges
from kernel.model.machine import ENDED
from kernel.ports.persistence import PRIORITIES, Append, KeyRecord

__all__ = [
    "STATEMENTS",
    "Group",
    "Item",
    "Kind",
    "concerns_others",
    "group_of",
    "item_of",
    "key_columns",
    "parameters",
]

Group = Literal["create", "owned", "foreign"]

STATEMENTS: Mapping[Group, str] = {"create": "append_create", "owned": "append_owned", "foreign": "append_foreign"}

_GROUPS: Mapping[str, Group] = {
    "create": "create",
    "owned": "owned",
    "release": "owned",
    "park": "owned",
    "foreign": "foreign",
    "dispatch": "foreign",
    "unpark": "foreign",
}


_FOR_JOBS = {"dispatch", "park"}

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Kind(NamedTuple):
    """What the appends of one batch have in common; `keyed` ones may have to wait for others, so they go apart.

    `format` too, because each run's is raised only by its own events: others remain readable by older releases.
    """

    group: Group
    session: str | None
    keyed: bool
    format: int
    jobs: bool = False


class Item:
    """One append with its answer to come. `uncertain`: an earlier sending of it may have been done."""

    __slots__ = (
        "alone",
        "answer",
        "append",
        "bodies",
        "error",
        "events",
        "jobs",
        "kind",
        "metadata",
        "poll_state",
        "since",
        "size",
        "stuck_since",
        "trace_context",
        "tries",
        "uncertain",
        "workflow_key",
    )

    def __init__(self, append: Append, kind: Kind, answer: Future[bool], since: float) -> None:
        self.append: Append = append
        self.kind: Kind = kind
        self.answer: Future[bool] = answer
        self.since: float = since
        self.events: str | None = None
        self.bodies: str | None = None
        self.jobs: str | None = None
        self.error: str | None = None
        self.metadata: str | None = None
        self.poll_state: str | None = None
        self.trace_context: str | None = None
        self.workflow_key: int = 0
        self.size: int = 0
        self.tries: int = 0
        self.stuck_since: float | None = None
        self.alone: bool = False
        self.uncertain: bool = False


def item_of(append: Append, answer: Future[bool], since: float) -> Item:
    """The append, checked and made ready to be sent.

    Raises: PayloadRefused; InvalidCommand, when a new run's id is malformed; RunNotFound or LeaseLost, when another
    one's is, because no such run can exist.
    """
    group = group_of(append)
    session = None if append.lease is None or group == "foreign" else append.lease.session_id
    jobs = append.jobs is not None or (group == "foreign" and append.mode in _FOR_JOBS)
    item = Item(append, Kind(group, session, append.key is not None, append.format, jobs), answer, since)
    if not is_run_id(append.run_id):
        raise _malformed(append)
    # It travels within the text of an array, so it must not contain what separates the elements of one.
    _check_uuid(append.append_id, "append_id")
    if append.lease is not None:
        _check_uuid(append.lease.session_id, "session_id")
    assert (append.events is None) == (append.mode in {"poll", "release", "park", "unpark"}), (
        f"what {append.mode} writes"
    )
    if append.events is not None:
        item.events = json_text(append.events, "Events", "events")
        item.size = len(append.events)
    if append.bodies is not None:
        item.bodies = json_text(append.bodies, "Bodies", "bodies")
        item.size += len(append.bodies)
    if append.poll_state is not None:
        item.poll_state = json_text(append.poll_state, "Poll state", "poll_state")
    if append.jobs is not None:
        item.jobs = _jobs_text(append.jobs)
    if append.head.error is not None:
        item.error = error_text(append.head.error)
    if append.key is not None:
        assert group != "owned", "a key comes with a creation or a foreign append"
        for text in (append.key.command_type, append.key.scope, append.key.key, append.key.digest):
            plain_text(text, "idempotency_key")
    if append.parked_reason is not None:
        plain_text(append.parked_reason, "parked_reason")
    if group == "create":
        new = append.new
        assert new is not None, "a creation says what it creates"
        if new.priority not in PRIORITIES:
            # Claims look at these only; a run with another one would wait for ever.
            raise PayloadRefused(f"Priority {new.priority}", "priorities are 0 to 9", field="priority")
        for optional in (new.fingerprint, new.idempotency_key, new.root_span_id):
            plain_text(optional or "", "new")
        item.metadata = mapping_text(new.metadata, "metadata")
        item.trace_context = mapping_text(new.trace_context, "trace_context")
    elif group == "owned":
        assert append.lease is not None, "who owns a run names the lease"
    return item


def group_of(append: Append) -> Group:
    """Which statement carries it."""
    if append.mode in ("poll", "park"):
        return "foreign" if append.lease is None else "owned"
    return _GROUPS[append.mode]


def _jobs_text(changes: JobChanges) -> str:
    dropped = [{"stage_id": stage_id} for stage_id in changes.drop]
    put = [
        {
            "stage_id": job.stage_id,
            "queue": job.queue,
            "due_at": None if job.due_at is None else job.due_at.isoformat(),
            "polls": job.polls,
            "lost": job.lost,
        }
        for job in changes.put
    ]
    return json.dumps([*dropped, *put])


def _check_uuid(text: str, field: str) -> None:
    if _UUID.fullmatch(text) is None:
        raise InvalidCommand(f'"{text}" is no UUID in lower case.', field=field)


def _malformed(append: Append) -> Exception:
    match group_of(append):
        case "create":
            return InvalidCommand(
                f'"{append.run_id}" is no run id.',
                field="run_id",
                hint="Run ids are UUIDs of version 7, in lower case.",
            )
        case "foreign":
            return RunNotFound(append.run_id)
        case "owned":
            assert append.lease is not None, "who owns a run names the lease"
            return LeaseLost(append.run_id, session_id=append.lease.session_id)


def parameters(kind: Kind, items: Sequence[Item]) -> tuple[object, ...]:
    """The parameters of the kind's statement: scalars first, then one array per column."""
    match kind.group:
        case "create":
            values = (kind.session, kind.format, *_columns(_CREATED, map(_created, items)))
        case "owned":
            values = (kind.session, kind.format, *_columns(_OWNED, map(_owned, items)))
        case "foreign":
            values = (kind.format, *_columns(_FOREIGN, map(_foreign, items)))
    if not kind.jobs:
        return values
    if kind.group != "foreign":
        return (*values, _free([item.jobs for item in items]))
    return (*values, *_columns(_FOREIGN_JOBS, map(_foreign_jobs, items)))


# The driver encodes an array element by element, which costs more than everything else that happens to an append. So
# what cannot need quoting travels as the text of a whole array, and only free text and JSON as arrays of the driver's.
# (Measured: 24 microseconds per append as arrays, 9 in this way.)

_Column = Callable[[Sequence[Any]], object]


def _columns(encoders: Sequence[_Column], rows: Iterable[tuple[object, ...]]) -> tuple[object, ...]:
    return tuple(encode(column) for encode, column in zip(encoders, zip(*rows, strict=True), strict=True))


def _words(column: Sequence[str]) -> str:
    return "{" + ",".join(column) + "}"


def _words_or_null(column: Sequence[str | None]) -> str:
    return "{" + ",".join(["NULL" if word is None else word for word in column]) + "}"


def _numbers(column: Sequence[int | Decimal]) -> str:
    return "{" + ",".join(map(str, column)) + "}"


def _moments(column: Sequence[datetime | None]) -> str:
    return "{" + ",".join(["NULL" if moment is None else moment.isoformat() for moment in column]) + "}"


def _free(column: Sequence[str | None]) -> Sequence[str | None] | None:
    # The statements fill up shorter arrays with nulls, so a column without values need not travel.
    return None if column.count(None) == len(column) else column


_HEAD: tuple[_Column, ...] = (_words, _words, _moments, _moments, _moments, _numbers, _numbers, _free)
_KEY: tuple[_Column, ...] = (_free, _free, _free, _free, _moments)
_NO_KEY = (None, None, None, None, None)


def _head(item: Item) -> tuple[object, ...]:
    head = item.append.head
    return (
        head.status,
        head.phase,
        head.wake_at,
        head.started_at,
        head.completed_at,
        head.total_cost,
        head.total_tokens,
        item.error,
    )


def key_columns(key: KeyRecord | None) -> tuple[object, ...]:
    """The five columns of an idempotency key."""
    return _NO_KEY if key is None else (key.command_type, key.scope, key.key, key.digest, key.expires_at)


_CREATED: tuple[_Column, ...] = (
    *(_words, _words, _numbers, _numbers, _moments, _free, _free),
    *_HEAD,
    *(_numbers, _free, _numbers, _moments, _free, _free, _free, _free),
    *_KEY,
)


def _created(item: Item) -> tuple[object, ...]:
    append = item.append
    new = append.new
    assert new is not None
    return (
        append.run_id,
        append.append_id,
        append.seq,
        0 if append.lease is None else append.lease.claim,
        append.at,
        item.events,
        item.bodies,
        *_head(item),
        item.workflow_key,
        new.fingerprint,
        new.priority,
        new.run_at,
        new.idempotency_key,
        item.metadata,
        new.root_span_id,
        item.trace_context,
        *key_columns(append.key),
    )


_OWNED: tuple[_Column, ...] = (
    *(_words, _words, _numbers, _numbers, _numbers, _words, _moments, _free, _free),
    *_HEAD,
    *(_free, _free),
)


def _owned(item: Item) -> tuple[object, ...]:
    append = item.append
    assert append.lease is not None
    return (
        append.run_id,
        append.append_id,
        append.expected,
        append.seq,
        append.lease.claim,
        append.mode,
        append.at,
        item.events,
        item.bodies,
        *_head(item),
        append.parked_reason,
        item.poll_state,
    )


_FOREIGN: tuple[_Column, ...] = (
    *(_words, _words, _numbers, _numbers, _words, _words_or_null, _moments, _free, _free),
    *_HEAD,
    *_KEY,
    _free,
)


def _foreign(item: Item) -> tuple[object, ...]:
    append = item.append
    return (
        append.run_id,
        append.append_id,
        append.expected,
        append.seq,
        append.mode,
        None if append.lease is None else append.lease.session_id,
        append.at,
        item.events,
        item.bodies,
        *_head(item),
        *key_columns(append.key),
        item.poll_state,
    )


_FOREIGN_JOBS: tuple[_Column, ...] = (_free, _free, _free, _free)


def _foreign_jobs(item: Item) -> tuple[object, ...]:
    changes = item.append.jobs
    lease = None if changes is None else changes.lease
    named = (None, None) if lease is None else (lease.stage_id, lease.token)
    return (item.jobs, *named, item.append.parked_reason)


def concerns_others(item: Item, *, owned: bool) -> bool:
    """Whether somebody may be waiting for what this append did.

    That is a run's end, a change behind an owner's back, or a run that is free and due now; a job that can be taken, or
    that was withdrawn while somebody may execute it. `owned`: it is a foreign append and found an owner.
    """
    append = item.append
    head = append.head
    if append.jobs is not None and _jobs_concern_others(append.jobs, append.at):
        return True
    match append.mode:
        case "foreign" if owned or head.status in ENDED:
            return True
        case "create" | "owned" if append.lease is not None:
            return head.status in ENDED
        case "park":
            return False
        case "poll" if owned or append.lease is not None:
            return False
        case _:
            return head.wake_at is not None and head.wake_at <= append.at


def _jobs_concern_others(changes: JobChanges, at: datetime) -> bool:
    withdrawn = changes.drop and changes.lease is None
    return bool(withdrawn) or any(job.due_at is None or job.due_at <= at for job in changes.put)
