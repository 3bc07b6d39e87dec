"""Every error that the engine raises, sorted by who must act on it.

`InvalidCommand` is the caller's to fix and is never retried; `Conflict` means that somebody else was faster, so look
again and decide again; `Unavailable` means that something outside is not there now, so wait and retry;
`DefinitionChanged` needs a human, because a deploy changed a workflow under a run. What user code raises is none of
these: it is recorded as data (`ErrorInfo`) and comes back as the outcome of a stage.

An error carries its facts as attributes and builds its own message; nothing matches on the text. `field` names the
part of the input that is wrong and `hint` the way out; the command line prints both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

__all__ = [
    "ArtifactNotFound",
    "BlobNotFound",
    "Conflict",
    "DefinitionChanged",
    "EngineError",
    "ErrorInfo",
    "IdempotencyInProgress",
    "IdempotencyKeyReused",
    "IllegalTransition",
    "InvalidCommand",
    "InvalidConfig",
    "InvalidInput",
    "InvalidOutput",
    "InvalidStage",
    "InvalidWorkflow",
    "JobLost",
    "LeaseLost",
    "MissingOutput",
    "NoDatabase",
    "NonRetryable",
    "OutputNotLoaded",
    "PayloadRefused",
    "RetryAfter",
    "RunCancelled",
    "RunFailed",
    "RunNotFound",
    "RunNotRerunnable",
    "SchemaOutdated",
    "StageNotFound",
    "StaleVersion",
    "Unavailable",
    "WorkflowNotFound",
]


class EngineError(Exception):
    """Root of everything that the engine itself raises; `message` says what, `field` where, `hint` what to do."""

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message: str = message
        self.field: str | None = field
        self.hint: str | None = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} {self.hint}"


# -- the caller must act ------------------------------------------------------------------------------------------


class InvalidCommand(EngineError):
    """What was asked cannot be done as asked; asking again changes nothing."""


class WorkflowNotFound(InvalidCommand):
    """No workflow with this id (and version, when one was named) is registered here."""

    def __init__(self, workflow_id: str, *, version: str | None = None, known: Iterable[str] = ()) -> None:
        self.workflow_id: str = workflow_id
        self.version: str | None = version
        self.known: tuple[str, ...] = tuple(sorted(set(known)))
        what = f'Workflow "{workflow_id}"' + (f' version "{version}"' if version is not None else "")
        super().__init__(
            f"{what} is not registered.",
            field="workflow_id",
            hint=f"Known workflows: {', '.join(self.known) or '(none)'}.",
        )


class RunNotFound(InvalidCommand):
    """No run has this id."""

    def __init__(self, run_id: str) -> None:
        self.run_id: str = run_id
        super().__init__(f'Run "{run_id}" does not exist.', field="run_id", hint="List runs to find its id.")


class StageNotFound(InvalidCommand):
    """The workflow has no stage with this id."""

    def __init__(self, stage_id: str, *, workflow_id: str, known: Iterable[str] = ()) -> None:
        self.stage_id: str = stage_id
        self.workflow_id: str = workflow_id
        self.known: tuple[str, ...] = tuple(known)
        super().__init__(
            f'Workflow "{workflow_id}" has no stage "{stage_id}".',
            field="stage_id",
            hint=f"Its stages: {', '.join(self.known) or '(none)'}.",
        )


class _InvalidPayload(InvalidCommand):
    """Shared shape of the three payload errors: pydantic's findings, without the values that were refused."""

    subject: str = "Payload"

    def __init__(self, where: str, errors: Sequence[Mapping[str, Any]], *, field: str, hint: str | None = None) -> None:
        self.where: str = where
        self.errors: tuple[dict[str, Any], ...] = tuple(
            {"loc": tuple(e["loc"]), "msg": str(e["msg"]), "type": str(e["type"])} for e in errors
        )
        listed = "; ".join(
            f"{'.'.join(str(part) for part in e['loc']) or '(whole value)'}: {e['msg']}" for e in self.errors
        )
        super().__init__(f"{self.subject} of {where} is not valid: {listed}.", field=field, hint=hint)


class InvalidInput(_InvalidPayload):
    """The input does not satisfy the workflow's (or the stage's) input schema; `errors` has `loc msg type` each."""

    subject: str = "Input"

    def __init__(self, where: str, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(where, errors, field="input")


class InvalidConfig(_InvalidPayload):
    """The merged configuration of at least one stage is not valid; all stages' errors at once, `loc[0]` the stage."""

    subject: str = "Config"

    def __init__(self, where: str, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(where, errors, field="config")


class InvalidOutput(_InvalidPayload):
    """A stage returned, or a check found, something that its output schema refuses; never retried."""

    subject: str = "Output"

    def __init__(self, where: str, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(where, errors, field="output")


class PayloadRefused(InvalidCommand):
    """A value that no store can keep: NUL or lone surrogates, NaN or infinities, too large or too deeply nested."""

    def __init__(self, what: str, reason: str, *, field: str) -> None:
        self.what: str = what
        self.reason: str = reason
        super().__init__(f"{what} cannot be stored: {reason}.", field=field)


class InvalidStage(InvalidCommand):
    """A stage is not usable as defined; raised at decoration or by `build()`."""

    def __init__(self, stage_id: str, reason: str, *, hint: str | None = None) -> None:
        self.stage_id: str = stage_id
        self.reason: str = reason
        super().__init__(f'Stage "{stage_id}": {reason}.', field="stage", hint=hint)


class InvalidWorkflow(InvalidCommand):
    """A workflow is not usable as built; raised by `WorkflowBuilder` and `App`."""

    def __init__(self, workflow_id: str, reason: str, *, hint: str | None = None) -> None:
        self.workflow_id: str = workflow_id
        self.reason: str = reason
        super().__init__(f'Workflow "{workflow_id}": {reason}.', field="workflow", hint=hint)


class MissingOutput(InvalidCommand):
    """`require` named a stage that has not completed in this run."""

    def __init__(self, stage_id: str, *, available: Iterable[str]) -> None:
        self.stage_id: str = stage_id
        self.available: tuple[str, ...] = tuple(available)
        super().__init__(
            f'Stage "{stage_id}" has no output in this run.',
            field="stage_id",
            hint=f"Outputs at hand: {', '.join(self.available) or '(none)'}.",
        )


class OutputNotLoaded(InvalidCommand):
    """`require` named a completed stage whose large output was not loaded, because it is not a declared dependency."""

    def __init__(self, stage_id: str, *, asked_by: str) -> None:
        self.stage_id: str = stage_id
        self.asked_by: str = asked_by
        super().__init__(
            f'The output of stage "{stage_id}" is stored outside the history and was not loaded for "{asked_by}".',
            field="stage_id",
            hint=f'Declare it: @stage("{asked_by}", dependencies=["{stage_id}"]).',
        )


class ArtifactNotFound(InvalidCommand):
    """The stage's result has no artifact of this name: it has not completed, was rerun, or never made one."""

    def __init__(self, name: str, *, run_id: str, stage_id: str, known: Iterable[str]) -> None:
        self.name: str = name
        self.run_id: str = run_id
        self.stage_id: str = stage_id
        self.known: tuple[str, ...] = tuple(known)
        super().__init__(
            f'Stage "{stage_id}" of run "{run_id}" has no artifact "{name}".',
            field="name",
            hint=f"Its artifacts: {', '.join(self.known) or '(none)'}.",
        )


class RunNotRerunnable(InvalidCommand):
    """The run cannot be run again from this stage now."""

    def __init__(self, run_id: str, reason: str) -> None:
        self.run_id: str = run_id
        self.reason: str = reason
        super().__init__(f'Run "{run_id}" cannot be rerun: {reason}.', field="run_id")


class IdempotencyKeyReused(InvalidCommand):
    """The key belongs to a run that was created from another payload, or rerun with other arguments.

    `paths` are the places that differ.
    """

    def __init__(
        self, key: str, *, run_id: str, paths: Sequence[str] = (), sent: str = "created from another payload"
    ) -> None:
        self.key: str = key
        self.run_id: str = run_id
        self.paths: tuple[str, ...] = tuple(paths)
        differing = f" (differing: {', '.join(self.paths)})" if self.paths else ""
        super().__init__(
            f'Idempotency key "{key}" already belongs to run "{run_id}", {sent}{differing}.',
            field="idempotency_key",
            hint="Use another key, or send what was sent before.",
        )


# -- somebody else was faster: look again ---------------------------------------------------------------------------


class Conflict(EngineError):
    """The decision was based on something that has changed; reload and decide again."""


class StaleVersion(Conflict):
    """The run's history has moved on: it was decided on `expected`, the head is at `actual`."""

    def __init__(self, run_id: str, *, expected: int, actual: int | None) -> None:
        self.run_id: str = run_id
        self.expected: int = expected
        self.actual: int | None = actual
        found = "does not exist" if actual is None else f"is at {actual}"
        super().__init__(f'Run "{run_id}" was decided on sequence {expected} but {found}.')


class LeaseLost(Conflict):
    """The session no longer owns the run (or is itself condemned); nothing that it decides can be committed."""

    def __init__(self, run_id: str | None, *, session_id: str) -> None:
        self.run_id: str | None = run_id
        self.session_id: str = session_id
        what = "its lease" if run_id is None else f'run "{run_id}"'
        super().__init__(f'Session "{session_id}" has lost {what}.')


class JobLost(Conflict):
    """The job is not leased under this token any more; whatever its former holder decides changes nothing."""

    def __init__(self, run_id: str, stage_id: str, *, token: str) -> None:
        self.run_id: str = run_id
        self.stage_id: str = stage_id
        self.token: str = token
        super().__init__(f'The job of stage "{stage_id}" of run "{run_id}" is not leased under token "{token}".')


class IdempotencyInProgress(Conflict):
    """Another creation with the same key is being committed just now."""

    def __init__(self, key: str, *, command_type: str) -> None:
        self.key: str = key
        self.command_type: str = command_type
        super().__init__(f'A "{command_type}" with idempotency key "{key}" is in progress.', hint="Ask again.")


# -- something outside is not there: wait ---------------------------------------------------------------------------


class Unavailable(EngineError):
    """The database (or what stands for it) cannot be used now; the same request may succeed later."""


class NoDatabase(Unavailable):
    """No database was named, and none may or can be started here."""

    def __init__(self, reason: str = "No database is configured.", *, hint: str | None = None) -> None:
        super().__init__(
            reason,
            field="database",
            hint=hint
            or "Set LEASEHOLD_DATABASE_URL (or --database-url), or install the embedded one: "
            'pip install "leasehold[embedded]".',
        )


class SchemaOutdated(Unavailable):
    """The database's schema is not one that this release can run on; versions are migration numbers."""

    def __init__(self, *, found: int | None, oldest: int, newest: int) -> None:
        self.found: int | None = found
        self.oldest: int = oldest
        self.newest: int = newest
        if found is None:
            message, hint = "The database has no Leasehold schema.", 'Run "leasehold migrate".'
        elif found < oldest:
            message = f"The database's schema is at version {found}; this release needs {oldest} to {newest}."
            hint = 'Run "leasehold migrate".'
        else:
            message = f"The database's schema is at version {found}; this release knows {oldest} to {newest}."
            hint = "Install a newer leasehold."
        super().__init__(message, field="database", hint=hint)


class BlobNotFound(EngineError):
    """The blob store has nothing under this key."""

    def __init__(self, key: str) -> None:
        self.key: str = key
        super().__init__(f'No blob is stored under "{key}".')


# -- a human must act -----------------------------------------------------------------------------------------------


class DefinitionChanged(EngineError):
    """The workflow (or the order of a stage's recorded steps) is no longer what the run was started with."""

    def __init__(self, subject: str, difference: str, *, hint: str | None = None) -> None:
        self.subject: str = subject
        self.difference: str = difference
        super().__init__(
            f"{subject} has changed since the run was started: {difference}.",
            hint=hint or 'Give the workflow a new version, or accept with "leasehold up --accept-changes".',
        )


class IllegalTransition(EngineError):
    """An event does not fit the state it met: the history is damaged, or our own code is wrong."""

    def __init__(self, subject: str, *, state: str, event: str) -> None:
        self.subject: str = subject
        self.state: str = state
        self.event: str = event
        super().__init__(f"{subject} is {state} and admits no {event}.")


# -- user code: data, not errors of the engine ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """What user code raised, as it is kept in history: the class's name, its message and its traceback as text."""

    type: str
    message: str
    traceback: str | None = None
    retryable: bool = True


class RunFailed(Exception):
    """Raised by `RunHandle.result()`: the run ended in failure, by the error of the named stage (or of no stage)."""

    def __init__(
        self, run_id: str, *, workflow_id: str, stage_id: str | None, attempt: int | None, error: ErrorInfo
    ) -> None:
        self.run_id: str = run_id
        self.workflow_id: str = workflow_id
        self.stage_id: str | None = stage_id
        self.attempt: int | None = attempt
        self.error: ErrorInfo = error
        where = "" if stage_id is None else f' at stage "{stage_id}"' + (f" (attempt {attempt})" if attempt else "")
        super().__init__(f'Run "{run_id}" of "{workflow_id}" failed{where}: {error.type}: {error.message}')


class RunCancelled(Exception):
    """Raised by `RunHandle.result()`: the run was cancelled."""

    def __init__(self, run_id: str, *, reason: str | None = None) -> None:
        self.run_id: str = run_id
        self.reason: str | None = reason
        super().__init__(f'Run "{run_id}" was cancelled' + (f": {reason}" if reason else "") + ".")


class NonRetryable(Exception):
    """Raised by a stage body to fail at once, whatever its retry policy says."""


class RetryAfter(Exception):
    """Raised by a stage body to be tried again after `delay` instead of the policy's backoff; counts as an attempt."""

    def __init__(self, delay: timedelta | float, message: str = "") -> None:
        self.delay: timedelta = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        if self.delay < timedelta(0):
            raise ValueError(f"RetryAfter: delay must not be negative, got {self.delay}.")
        super().__init__(message or f"try again after {self.delay}")
