"""A decision in the making: facts are added one by one, and each is evolved at once.

So the second half of a decision ("was this the last stage of its group?") reads the state after the first half ("the
stage completed"), and a decision is closed under its consequences without any code that predicts them. A draft lives
inside one call of a `decide` function and is never shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Generic

from typing_extensions import TypeVar

from kernel.model.facts import Fact
from kernel.model.ids import attempt_token
from kernel.model.jobs import JobChanges, JobLease, job_changes
from kernel.model.looks import Look, lay_over
from kernel.model.run import RunState, evolve

__all__ = ["Decision", "Draft", "Moment"]

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

_FAR_FUTURE = datetime(9999, 1, 1, tzinfo=UTC)
"""A year before the last date there is, so that it can still be written in every time zone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When and by whom something is decided; with the state and the command it determines the decision.

    `append_id` is that of the append which will carry the facts; tokens and jitter are derived from it. `session` is
    the session that decides as the run's owner, None for everybody else. `starts` is how many attempts the decider
    can begin to execute at once, so that their starts may stand in the same append; with `passes_on`, the room of an
    attempt that ends is free for what follows from its end.
    """

    now: datetime
    append_id: str
    session: str | None = None
    starts: int = 0
    passes_on: bool = False

    def after(self, delay: timedelta) -> datetime:
        """The moment so much later; "never" is a date of the far future, for user code may ask for any delay."""
        return self.now + min(delay, _FAR_FUTURE - self.now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Generic[R_co]):
    """What a `decide` function answers: a result, the facts to append and the state after them.

    `bodies` are raw JSON payloads under the sequence number of their fact, `looks` by stage what is kept in the head
    alone, `jobs` what changes about the run's jobs. Without facts and looks nothing changes.
    """

    result: R_co
    state: RunState
    facts: tuple[Fact, ...] = ()
    bodies: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    looks: Mapping[str, Look] = field(default_factory=dict[str, Look])
    jobs: JobChanges | None = None

    @property
    def changes(self) -> bool:
        """Whether there is anything to append."""
        return bool(self.facts or self.looks)


class Draft:
    """The facts decided so far and the state that they lead to; `lease` is that of the job whose holder decides."""

    def __init__(self, state: RunState, moment: Moment) -> None:
        self.before: RunState | None = state
        self.state: RunState = state
        self.lease: JobLease | None = None
        self.moment = moment
        self.starts: int = moment.starts
        self.facts: list[Fact] = []
        self.bodies: dict[int, bytes] = {}
        self.looks: dict[str, Look] = {}

    @classmethod
    def opening(cls, run_id: str, fact: Fact, moment: Moment, body: bytes | None) -> Draft:
        """The draft of a new run, which begins with its first fact."""
        draft = cls(evolve(None, fact, run_id=run_id, at=moment.now), moment)
        draft.before = None
        draft.facts.append(fact)
        if body is not None:
            draft.bodies[1] = body
        return draft

    def add(self, fact: Fact, body: bytes | None = None) -> None:
        """Append a fact, with its payload when it has one that is kept beside it."""
        self.state = evolve(self.state, fact, run_id=self.state.run_id, at=self.moment.now)
        self.facts.append(fact)
        if body is not None:
            self.bodies[self.state.seq] = body

    def look(self, stage_id: str, look: Look) -> None:
        """Keep what a look at a suspended stage left, without a fact."""
        self.state = lay_over(self.state, {stage_id: look})
        self.looks[stage_id] = look

    def next_token(self) -> str:
        """The token of the attempt that the next fact starts."""
        return attempt_token(self.moment.append_id, self.state.seq + 1)

    def decided(self, result: R) -> Decision[R]:
        """Close the draft with this result."""
        jobs = job_changes(self.before, self.state, self.lease) if self.facts or self.looks else None
        return Decision(
            result=result,
            state=self.state,
            facts=tuple(self.facts),
            bodies=self.bodies,
            looks=self.looks,
            jobs=jobs,
        )
