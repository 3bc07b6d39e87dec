"""What a host is told and what it answers: jobs as messages of somebody else's queue, and the outcomes of its calls.

Separate from the host, because these values travel: whoever writes a message, or reads a result, needs no store. What a
message says is checked when it is made, so that a wrong one is its sender's error and never that of the run it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kernel.authoring.identifiers import text_problem
from kernel.errors import ErrorInfo, InvalidCommand
from kernel.model.ids import is_run_id

__all__ = ["JobMessage", "JobResult", "JobsProcessed", "MaintenanceTick", "check_count"]

_HINTS = {
    "job_id": 'It names the job in logs, as in "<run id>/<stage id>".',
    "run_id": "It is the id that `start` and `leasehold runs` give.",
    "stage_id": "It is the id of a stage of the run's workflow.",
    "token": "Leave it out, unless the job was taken out of its queue under it.",
    "attempt": "Leave it out to execute the attempt that is due.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMessage:
    """A job that somebody wants to have executed, as it may travel through a queue of another kind.

    `job_id` names it in logs (run id/stage id). With `attempt`, only the attempt of this number. Without a `token`, the
    host takes the job when the message arrives. With one, whoever sent the message has taken it out of its queue under
    that token (`JobTransport.dequeue`): the message is good while that lease holds, and never again after it.

    Where messages come from: a `MaintenanceTick` and every `JobResult` name the jobs that have come to wait. One that
    comes before its `due_at` is a ghost, so it is to be sent with that delay.
    """

    job_id: str
    run_id: str
    stage_id: str
    attempt: int | None = None
    token: str | None = None
    due_at: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse what names no job, naming the field."""
        for name in ("job_id", "run_id", "stage_id", "token"):
            value = getattr(self, name)
            problem = None if name == "token" and value is None else text_problem(value)
            if problem is not None:
                raise InvalidCommand(f"{name} {problem}.", field=name, hint=_HINTS[name])
        if not is_run_id(self.run_id):
            raise InvalidCommand(f"run_id is no id of a run: {self.run_id!r}.", field="run_id", hint=_HINTS["run_id"])
        if self.attempt is not None:
            check_count(self.attempt, "attempt", hint=_HINTS["attempt"])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How it ended. All of it is recorded: a message need never be repeated, whatever stands here.

    `retryable`: another attempt is queued, due later. `ghost`: nothing was recorded, because there was nothing to do
    (any more) or somebody else does it; `error` says why. `jobs`: what has come to wait by it, for whoever sends one
    message per job: the next attempt or check, or the stages that follow.
    """

    outcome: Literal["completed", "suspended", "failed"]
    error: ErrorInfo | None = None
    ghost: bool = False
    retryable: bool = False
    jobs: tuple[JobMessage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsProcessed:
    """What became of the jobs that were there; `failed` counts attempts, of which some are repeated later."""

    processed: int = 0
    succeeded: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceTick:
    """What a tick did, and what went wrong, by command.

    Runs were handed over to jobs (`claimed`), leases ended (`released`), stuck runs `repaired`; scheduled commands that
    were due were `dispatched`, events `published` to the plugins and sinks of the app. `jobs`: what has come to wait
    by that, for whoever sends one message per job.
    """

    claimed: int = 0
    released: int = 0
    repaired: int = 0
    dispatched: int = 0
    published: int = 0
    jobs: tuple[JobMessage, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict[str, str])


def check_count(value: object, name: str, *, hint: str | None = None) -> None:
    """Refuse what is no whole number from 1 on; True is none, either. Raises: InvalidCommand."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidCommand(f"{name} must be a whole number, not {value!r}.", field=name, hint=hint)
    if value < 1:
        raise InvalidCommand(f"{name} must be at least 1, got {value}.", field=name, hint=hint)
