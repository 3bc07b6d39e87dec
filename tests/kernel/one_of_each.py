"""One fact of every kind, with everything that a fact can hold; and the list of kinds.

Whatever is true of all facts is tried with these. They suit a run of the stages a and b of which only b has ended, and
`SECRET` stands wherever a fact holds what nobody outside the engine may see.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

from kernel.model.facts import (
    AnnotationCreated,
    BlobRef,
    Fact,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunOwnerChanged,
    RunRerun,
    RunStarted,
    StageCancelled,
    StageCompleted,
    StageFailed,
    StageRetrying,
    StageScheduled,
    StageSkipped,
    StageStarted,
    StageSuspended,
    StepRecorded,
)
from tests.kernel.stories import NOW, a_creation, a_plan, an_error

__all__ = ["CLASSES", "KINDS", "OF_STAGE", "ONE_OF_EACH", "SECRET", "kinds_in"]

SECRET = "a-token-or-digest"
OF_STAGE: dict[str, Any] = {"stage_id": "a", "execution": 1, "attempt": 2}
_BLOB = BlobRef(key=SECRET, digest=SECRET, size_bytes=1)

ONE_OF_EACH: list[Fact] = [
    a_creation(a_plan("a", "b"), input_blob=_BLOB, config={"a": {"x": SECRET}}),
    RunStarted(owner="s1"),
    RunOwnerChanged(owner="s2", previous=SECRET),
    RunCompleted(duration_s=1.5, total_cost="0.3", total_tokens=7),
    RunFailed(error=an_error(), stage_id="a", attempt=2),
    RunCancelled(reason="not needed"),
    RunRerun(from_stage_id="b", discarded=("b",), key=SECRET),
    StageScheduled(**OF_STAGE, queue="gpu"),
    StageStarted(**OF_STAGE, token=SECRET, key=SECRET, resumed=True),
    StageCompleted(**OF_STAGE, duration_s=1.5, output_blob=_BLOB, artifacts={"chart": _BLOB}),
    StageFailed(**OF_STAGE, error=an_error()),
    StageRetrying(**OF_STAGE, error=an_error(), due_at=NOW, cause="lost", token=SECRET, owner=SECRET),
    StageSuspended(**OF_STAGE, next_poll_at=NOW, max_wait_until=NOW, poll_interval_s=30.0, state_blob=_BLOB),
    StageCancelled(**OF_STAGE),
    StageSkipped(**OF_STAGE, reason="the run failed"),
    StepRecorded(**OF_STAGE, position=0, name="fetch", result_blob=_BLOB),
    AnnotationCreated(
        **OF_STAGE, key="note", scope="page", scope_id="7", actor="user:Ada", payload=SECRET, once=SECRET, emit=True
    ),
]


def kinds_in(union: Any) -> set[str]:
    """The kinds of a union of facts or of events."""
    return {str(field.default) for cls in get_args(get_args(union)[0]) for field in fields(cls) if field.name == "type"}


CLASSES: set[type] = set(get_args(get_args(Fact)[0]))
KINDS: set[str] = kinds_in(Fact)
