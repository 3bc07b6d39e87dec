"""What a stage body or a check is given: its input and configuration, and a few ways to reach out.

A context does not know what executes it. Everything that leaves it goes through one narrow port, `BodyPort`, which an
executor in the same process, in a worker thread or in a child process implements. `log` and `progress` are plain
calls in every kind of body: they never wait, and whatever becomes of them, the stage does not fail by them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, overload

from pydantic import BaseModel
from typing_extensions import TypeVar

from kernel.authoring.annotations import Actor, Attributes, TypedKey, make_note, make_notes
from kernel.authoring.outputs import Outputs
from kernel.authoring.schema import Payload, Value
from kernel.authoring.steps import StepJournal, Steps
from kernel.authoring.storage import BlobAccess, Storage
from kernel.errors import InvalidStage
from kernel.model.notes import Note

if TYPE_CHECKING:
    from kernel.authoring.stage import Stage

__all__ = ["BodyCancelled", "BodyContext", "BodyIdentity", "BodyPort", "CheckContext", "NoConfig", "StageContext"]

# A context is read, so its parameters are covariant; each has a default, so that bare `StageContext` takes every one.
I_co = TypeVar("I_co", covariant=True, default=object)
C_co = TypeVar("C_co", bound=BaseModel, covariant=True, default=BaseModel)
S_co = TypeVar("S_co", covariant=True, default=Any)
T = TypeVar("T")


class BodyCancelled(BaseException):
    """Raised inside a body by `raise_if_cancelled`; not an `Exception`, so that a broad handler does not swallow it."""


class NoConfig(BaseModel, frozen=True):
    """The configuration of a stage that has none."""


class BodyPort(BlobAccess, Protocol):
    """How a body reaches out; implemented by whatever executes it. The first four calls return at once."""

    def log(self, level: str, message: str, fields: Mapping[str, object], /) -> None:
        """Take one line; drop and count it when there is no room, never raise."""
        ...

    def progress(self, value: float, message: str, details: Mapping[str, object], /) -> None:
        """Take one report, which replaces the one before; never raise."""
        ...

    def annotate(self, note: Note, /) -> None:
        """Take one annotation, to be appended with the end of the attempt."""
        ...

    def cancelled(self) -> bool:
        """Whether the result of this attempt is no longer wanted."""
        ...

    @property
    def steps(self) -> StepJournal:
        """The recorded steps of this execution."""
        ...


class BodyIdentity(NamedTuple):
    """Which attempt of which stage of which run; `stage_number`, `execution` and `attempt` count from 1."""

    run_id: str
    workflow_id: str
    stage_id: str
    stage_name: str
    stage_number: int
    execution: int
    attempt: int


class BodyContext(Generic[C_co]):
    """What stage bodies and checks have in common.

    `deadline` is when the attempt's timeout ends, aware UTC, or None; `services` are the app's, by name.
    """

    __slots__ = (
        "_config",
        "_port",
        "_steps",
        "_storage",
        "attempt",
        "deadline",
        "execution",
        "run_id",
        "services",
        "stage_id",
        "stage_name",
        "stage_number",
        "workflow_id",
    )

    def __init__(
        self,
        identity: BodyIdentity,
        *,
        config: BaseModel,
        port: BodyPort,
        services: Mapping[str, Any],
        deadline: datetime | None = None,
    ) -> None:
        self.run_id: str = identity.run_id
        self.workflow_id: str = identity.workflow_id
        self.stage_id: str = identity.stage_id
        self.stage_name: str = identity.stage_name
        self.stage_number: int = identity.stage_number
        self.execution: int = identity.execution
        self.attempt: int = identity.attempt
        self.deadline: datetime | None = deadline
        self.services: Mapping[str, Any] = services
        self._config: Any = config
        self._port = port
        self._steps: Steps | None = None
        self._storage: Storage | None = None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(run {self.run_id}, stage {self.stage_id}, "
            f"execution {self.execution}, attempt {self.attempt})"
        )

    @property
    def config(self) -> C_co:
        """The stage's configuration of this run, with its defaults; `NoConfig()` when the stage declares none."""
        config: C_co = self._config
        return config

    def service(self, name: str, type_: type[T], /) -> T:
        """The app's service of this name. Raises: InvalidStage when there is none, or when it is of another type."""
        if name not in self.services:
            known = ", ".join(sorted(self.services)) or "(none)"
            raise InvalidStage(
                self.stage_id,
                f'it needs the service "{name}", which is not there',
                hint=f'Give it to the app: services={{"{name}": factory}}. Services here: {known}.',
            )
        service = self.services[name]
        if not _is_instance(service, type_):
            found = type(service).__qualname__
            raise InvalidStage(self.stage_id, f'its service "{name}" is a {found}, not a {type_.__qualname__}')
        found_service: T = service
        return found_service

    def log(self, level: str, message: str, **fields: object) -> None:
        """Log a line with the run ("debug", "info", "warning" or "error"); never waits and never fails."""
        self._port.log(_LEVELS.get(str(level).lower(), "INFO"), str(message), fields)

    def progress(self, value: float, message: str = "", **details: object) -> None:
        """Say how far the stage is, as a share from 0 to 1; never waits and never fails. The last one wins."""
        try:
            share = float(value)
        except (TypeError, ValueError, OverflowError):
            share = math.nan
        # A report must not fail a stage, and NaN is not JSON.
        self._port.progress(share if math.isfinite(share) else 0.0, str(message), details)

    @overload
    def annotate(
        self,
        key: TypedKey[T],
        value: T,
        /,
        *,
        scope: str = ...,
        scope_id: str | None = ...,
        actor: Actor | None = ...,
        payload: Payload = ...,
        idempotency_key: str | None = ...,
        emit_event: bool = ...,
    ) -> None: ...
    @overload
    def annotate(
        self,
        key: str,
        value: Payload,
        /,
        *,
        scope: str = ...,
        scope_id: str | None = ...,
        actor: Actor | None = ...,
        payload: Payload = ...,
        idempotency_key: str | None = ...,
        emit_event: bool = ...,
    ) -> None: ...
    @overload
    def annotate(
        self,
        attributes: Attributes,
        /,
        *,
        scope: str = ...,
        scope_id: str | None = ...,
        actor: Actor | None = ...,
        payload: Payload = ...,
        idempotency_key: str | None = ...,
        emit_event: bool = ...,
    ) -> None: ...
    def annotate(
        self,
        key: TypedKey[Any] | str | Attributes,
        value: Any = None,
        /,
        **common: Any,
    ) -> None:
        """Remark something about the run; it is stored with the end of the attempt, be it a success or not.

        One value under its key, or a mapping of several; None as value is ignored. `scope` is this stage, unless it
        names "run" or something of the author's own, of which `scope_id` says which one. `actor` is who says it and
        `payload` its evidence. With an `idempotency_key` the key is annotated once per run, whatever is tried again.
        `emit_event`: sinks and plugins are given an `annotation.created`.

        Raises: InvalidCommand for the key, InvalidInput for a value that is not of the key's type, PayloadRefused.
        """
        common.setdefault("scope", "stage")
        if isinstance(key, Mapping):
            for note in make_notes(key, **common):
                self._port.annotate(note)
        elif value is not None:
            self._port.annotate(make_note(key, value, **common))

    @property
    def cancelled(self) -> bool:
        """Whether the result is no longer wanted: the run was cancelled, the attempt superseded or out of time."""
        return self._port.cancelled()

    def raise_if_cancelled(self) -> None:
        """Leave a body that cannot be interrupted (a thread, a process). Raises: BodyCancelled."""
        if self._port.cancelled():
            raise BodyCancelled

    @property
    def storage(self) -> Storage:
        """Named values of this stage of this run, in the blob store; not fenced against superseded attempts."""
        if self._storage is None:
            self._storage = Storage(
                self._port, workflow_id=self.workflow_id, run_id=self.run_id, stage_id=self.stage_id
            )
        return self._storage

    @property
    def step(self) -> Steps:
        """Does a part of the work once per execution: `await ctx.step("fetch", fetch, url)`."""
        if self._steps is None:
            self._steps = Steps(self._port.steps, stage_id=self.stage_id)
        return self._steps


class StageContext(BodyContext[C_co], Generic[I_co, C_co, S_co]):
    """What a stage body is given: `StageContext[Input, Config, State]`, where what is left out means none.

    Bare `StageContext` accepts every context, for functions that several bodies share.
    """

    __slots__ = ("_input", "_outputs", "_resume_state")

    def __init__(
        self,
        identity: BodyIdentity,
        *,
        input: object,
        config: BaseModel,
        outputs: Outputs,
        port: BodyPort,
        services: Mapping[str, Any],
        resume_state: object = None,
        deadline: datetime | None = None,
    ) -> None:
        super().__init__(identity, config=config, port=port, services=services, deadline=deadline)
        self._input: Any = input
        self._outputs = outputs
        self._resume_state: Any = resume_state

    @property
    def input(self) -> I_co:
        """What the stages before gave, or the run's input in the first group."""
        value: I_co = self._input
        return value

    @property
    def resume_state(self) -> S_co | None:
        """The state of the suspension after which this attempt begins again; None in every other attempt."""
        state: S_co | None = self._resume_state
        return state

    @property
    def outputs(self) -> Mapping[str, Any]:
        """Stage id to output, of the completed stages whose output is at hand; each is read when it is asked for."""
        return self._outputs

    @overload
    def require(self, stage: Stage[Any, T, Any], /) -> T: ...
    @overload
    def require(self, stage: str, /) -> Value: ...
    def require(self, stage: Stage[Any, Any, Any] | str, /) -> Value:
        """The output of a completed stage, by the stage (typed) or its id. None is an output like any other.

        Raises: MissingOutput when the stage has not completed; OutputNotLoaded when its output is large and the stage
        that asks does not declare it in `dependencies`.
        """
        return self._outputs[stage if isinstance(stage, str) else stage.id]

    @overload
    def optional(self, stage: Stage[Any, T, Any], /) -> T | None: ...
    @overload
    def optional(self, stage: str, /) -> Value: ...
    def optional(self, stage: Stage[Any, Any, Any] | str, /) -> Value:
        """As `require`, but None when the stage has not completed. Raises: OutputNotLoaded."""
        stage_id = stage if isinstance(stage, str) else stage.id
        return self._outputs[stage_id] if self._outputs.has(stage_id) else None


class CheckContext(BodyContext[C_co], Generic[C_co]):
    """What a batch stage's check is given: as a stage's context, without input and outputs."""

    __slots__ = ()


_LEVELS = {
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARN",
    "warning": "WARN",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "ERROR",
}


def _is_instance(value: object, type_: type[Any]) -> bool:
    try:
        return isinstance(value, type_)
    except TypeError:  # a Protocol that is not runtime-checkable, a parametrised class: only a type checker can tell
        return True
