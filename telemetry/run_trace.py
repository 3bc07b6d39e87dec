"""Which trace a run belongs to, and which spans of it are known before they are sent.

A run is one trace, whatever number of processes drive it, so nothing about it may depend on who is asked. The trace
and its sampling are those of the creator's span; they are stored with the run as a W3C `traceparent`. Of a run without
a creator's span the trace is derived from the run's id, and so are the ids of spans that one process may have to send
for another: the root, whose sender is whoever ends the run, and the attempts that went down with their process.

A stored `traceparent` that names the run's own root span says that the root has no parent and that it is sampled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b

__all__ = [
    "RunTrace",
    "Traceparent",
    "after_rerun",
    "attempt_ids",
    "look_id",
    "own_trace_id",
    "parse_traceparent",
    "root_id",
    "run_trace",
    "to_ns",
]

TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context, Level 2: version, trace id, parent id, flags; a later version may append more."""
SAMPLED = 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Traceparent:
    """Somebody's span, as it travels between processes."""

    trace_id: int
    span_id: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def parse_traceparent(text: str) -> Traceparent | None:
    """The span that this header names; None when it is not a valid one."""
    found = TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Traceparent(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & SAMPLED))


@dataclass(slots=True, kw_only=True)  # not frozen, which makes it three times as dear, and every run has one
class RunTrace:
    """A run's place in its trace. `span_id` is its root, `parent_id` the creator's span; `began_at` is its creation.

    After a rerun both `span_id` and `began_at` are those of the rerun, and `first_id` is the root before the first.
    """

    run_id: str
    workflow_id: str
    workflow_version: str
    trace_id: int
    span_id: int
    parent_id: int | None
    sampled: bool
    began_at: datetime
    first_id: int | None = None


def run_trace(
    run_id: str,
    workflow_id: str,
    workflow_version: str,
    *,
    began_at: datetime,
    carrier: Mapping[str, str] | None,
    sample: Callable[[int, str], bool],
) -> RunTrace:
    """The trace of a run, from what is stored with it; `sample` decides (trace id, workflow id) if nobody has."""
    root = root_id(run_id)
    given = parse_traceparent(str((carrier or {}).get("traceparent", "")))
    if given is None:
        trace_id = own_trace_id(run_id)
        given = Traceparent(trace_id, root, sample(trace_id, workflow_id))
    return RunTrace(
        run_id=run_id,
        workflow_id=workflow_id,
        workflow_version=workflow_version,
        trace_id=given.trace_id,
        span_id=root,
        parent_id=None if given.span_id == root else given.span_id,
        sampled=given.sampled,
        began_at=began_at,
    )


def after_rerun(trace: RunTrace, seq: int, began_at: datetime) -> RunTrace:
    """The same run after the rerun that is its event of this sequence number: one more root in the same trace."""
    first = trace.first_id or trace.span_id
    return replace(trace, span_id=_derived(64, trace.run_id, "run", str(seq)), began_at=began_at, first_id=first)


def own_trace_id(run_id: str) -> int:
    """The id of the trace of a run without a creator's span."""
    return _derived(128, run_id, "trace")


def root_id(run_id: str) -> int:
    """The id of a run's root span."""
    return _derived(64, run_id, "run")


def attempt_ids(token: str) -> tuple[int, int]:
    """The ids of an attempt's spans: of its `job.execute` and of its body."""
    return _derived(64, token, "job"), _derived(64, token, "body")


def look_id(run_id: str, stage_id: str, execution: int, look: str) -> int:
    """The id of the span of one look at a suspended stage; `look` tells it from the others of the execution."""
    return _derived(64, run_id, stage_id, str(execution), look)


def to_ns(moment: datetime) -> int:
    """Nanoseconds since 1970, exactly."""
    past = moment - EPOCH
    return (past.days * 86_400 + past.seconds) * 1_000_000_000 + past.microseconds * 1_000


def _derived(bits: int, *parts: str) -> int:
    # Never 0, which would say that there is none.
    return int.from_bytes(blake2b("/".join(parts).encode(), digest_size=bits // 8).digest(), "big") or 1
