"""Looks that changed nothing but when to look again: kept in the run's head, and not in its history.

A stage may wait for days and be looked at every minute. What such a look found is worth no fact: it moves the next look
(and counts checks that went wrong), for the suspension that it was about and for no other. So the state is the fold of
the history with the looks of its head laid over it, and this is the only thing in which the two may differ.

Pure: no store is known here, only the JSON that one keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from kernel.model.facts import CorruptHistory
from kernel.model.run import RunState
from kernel.replace import replace

__all__ = ["Look", "decode_looks", "encode_looks", "lay_over"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the last look at a suspended stage left; `seq` is that of the `stage.suspended` which it belongs to."""

    seq: int
    next_poll_at: datetime
    max_wait_until: datetime
    check_failures: int = 0


_LOOKS: TypeAdapter[dict[str, Look]] = TypeAdapter(dict[str, Look])


def encode_looks(looks: Mapping[str, Look]) -> bytes:
    """A JSON object by stage id, to be merged into what the head has."""
    return _LOOKS.dump_json(dict(looks))


def decode_looks(data: bytes, *, run_id: str) -> Mapping[str, Look]:
    """What `encode_looks` has written, over time. Raises: CorruptHistory."""
    try:
        return _LOOKS.validate_json(data)
    except ValidationError as error:
        raise CorruptHistory(run_id, f"what its head says of polls cannot be read ({error})") from None


def lay_over(state: RunState, looks: Mapping[str, Look]) -> RunState:
    """The state with these looks; those that belong to another suspension, or to none, say nothing."""
    stages = dict(state.stages)
    for stage_id, look in looks.items():
        stage = stages.get(stage_id)
        # Also when it does not wait any more: a retried stage keeps its last suspension for the next attempt.
        if stage is not None and stage.suspension is not None and stage.suspension.seq == look.seq:
            suspension = replace(
                stage.suspension,
                next_poll_at=look.next_poll_at,
                max_wait_until=look.max_wait_until,
                check_failures=look.check_failures,
            )
            stages[stage_id] = replace(stage, suspension=suspension)
    return replace(state, stages=stages)
