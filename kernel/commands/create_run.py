"""`run.create`: a new run, once per idempotency key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal, Protocol, cast

from pydantic import BaseModel
from pydantic_core import from_json, to_jsonable_python

from kernel.authoring.annotations import Attributes, NewAnnotations, notes_of
from kernel.authoring.payload_guard import check_payload_json, encode_payload
from kernel.authoring.stage import Stage
from kernel.authoring.workflow import Workflow
from kernel.command import Command
from kernel.errors import ErrorInfo, IdempotencyKeyReused, InvalidCommand, RunNotFound, StaleVersion, WorkflowNotFound
from kernel.idempotency_keys import check_idempotency_key
from kernel.model.attempts import Payload
from kernel.model.consequences import advance_run
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import BlobRef, RunCreated
from kernel.model.ids import is_run_id
from kernel.model.notes import Note, add_notes
from kernel.payloads import Limits, blob_key, place_payload
from kernel.ports.blobs import BlobStore
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.journals import Journals
from kernel.ports.persistence import PRIORITIES, KeyRecord, KeyTaken, NewRun
from kernel.ports.registry import WorkflowRegistry

__all__ = ["CreateRun", "CreateRunPorts", "CreateRunResult", "create_run", "decide_create", "find_fault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRunResult:
    """The run's id, whether this call created it or an earlier one with the same key did."""

    run_id: str
    status: Literal["PENDING"] = "PENDING"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRun(Command[CreateRunResult]):
    """Create a run of a workflow.

    `config` maps stage (or stage id) to a model or mapping that is merged deeply over the stage's defaults. The same
    `idempotency_key` with the same `input` and `config` answers with the same run; the other fields take no part.
    `priority` is 0 to 9, one step being worth ten seconds of waiting; nothing runs before `run_at`. `annotations`, a
    mapping of values by key or several `NewAnnotations`, appear with the run or not at all. `run_id` is for
    callers that mint the id themselves, so that sending again after a lost answer creates nothing twice.
    """

    type: ClassVar[str] = "run.create"

    workflow_id: str
    input: Any
    idempotency_key: str | None = None
    config: Mapping[str | Stage[Any, Any, Any], Any] | None = None
    priority: int = 5
    metadata: Mapping[str, Any] | None = None
    annotations: Sequence[NewAnnotations] | Attributes | None = None
    run_at: datetime | None = None
    run_id: str | None = None
    workflow_version: str | None = None
    root_span_id: str | None = None
    trace_context: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Refuse what could never be created, naming the field."""
        if not self.workflow_id:
            raise InvalidCommand("workflow_id must not be empty.", field="workflow_id")
        check_idempotency_key(self.idempotency_key)
        # True and 5.0 are members of the range, but no store keeps them as they are.
        if type(self.priority) is not int or self.priority not in PRIORITIES:
            raise InvalidCommand(f"priority must be an integer from 0 to 9, got {self.priority!r}.", field="priority")
        if self.run_at is not None and self.run_at.tzinfo is None:
            raise InvalidCommand("run_at must be an aware datetime.", field="run_at", hint="Add a time zone, e.g. UTC.")
        if self.run_id is not None and not is_run_id(self.run_id):
            raise InvalidCommand(f'run_id "{self.run_id}" is not a UUIDv7 in lower case.', field="run_id")


class CreateRunPorts(Protocol):
    """What creating a run touches."""

    @property
    def registry(self) -> WorkflowRegistry:
        """Where the definition is."""
        ...

    @property
    def journals(self) -> Journals:
        """Where the history begins."""
        ...

    @property
    def blobs(self) -> BlobStore:
        """Where a large input goes."""
        ...

    @property
    def clock(self) -> Clock:
        """When it is."""
        ...

    @property
    def ids(self) -> Ids:
        """Where the run's id comes from."""
        ...

    @property
    def limits(self) -> Limits:
        """What is a large input."""
        ...


def decide_create(
    run_id: str, fact: RunCreated, input_: bytes | None, moment: Moment, *, notes: Sequence[Note] = ()
) -> Decision[CreateRunResult]:
    """The opening of a history; who creates the run as its owner begins the first group in the same append."""
    draft = Draft.opening(run_id, fact, moment, input_)
    add_notes(draft, notes)
    if moment.starts > 0 and (fact.run_at is None or fact.run_at <= moment.now):
        advance_run(draft)
    return draft.decided(CreateRunResult(run_id=run_id))


async def create_run(command: CreateRun, ports: CreateRunPorts) -> CreateRunResult:
    """Validate, then begin the run's history; the key and the run appear in one append.

    Interrupted before the append nothing exists; after it the run does, and the same command with the same key (or
    the same `run_id`) answers with it.
    """
    workflow = ports.registry.find_workflow(command.workflow_id, command.workflow_version)
    if workflow is None:
        known = [workflow_id for workflow_id, _ in ports.registry.known()]
        raise WorkflowNotFound(command.workflow_id, version=command.workflow_version, known=known)
    input_ = workflow.encode_input(command.input, bytes_max=ports.limits.payload_bytes_max)
    merged = workflow.merge_config(command.config)
    config = {stage_id: values for stage_id, values in merged.items() if values}
    metadata = _plain(command.metadata, "metadata")
    notes = notes_of(command.annotations)
    run_id = command.run_id or ports.ids.run_id(ports.clock.now())
    # The digest: a caller who uses a run's id again must not overwrite that run's input.
    where = blob_key(workflow.id, run_id, f"input-{hashlib.sha256(input_).hexdigest()[:24]}.json")
    payload = await place_payload(ports, input_, key=where, what=f'Input of workflow "{workflow.id}"', field="input")
    fact = RunCreated(
        workflow_id=workflow.id,
        workflow_version=workflow.version,
        fingerprint=workflow.fingerprint,
        plan=workflow.execution_plan(),
        priority=command.priority,
        run_at=command.run_at,
        config=config,
        input_blob=payload if isinstance(payload, BlobRef) else None,
    )
    new = NewRun(
        workflow_id=workflow.id,
        workflow_version=workflow.version,
        fingerprint=workflow.fingerprint,
        priority=command.priority,
        run_at=command.run_at,
        idempotency_key=command.idempotency_key,
        metadata=metadata,
        root_span_id=command.root_span_id,
        trace_context=command.trace_context,
    )
    key = _key_record(command, workflow, expires_at=ports.clock.now() + ports.limits.idempotency_expiry)
    inline = payload if isinstance(payload, bytes) else None
    try:
        return await ports.journals.create(
            run_id, lambda moment: decide_create(run_id, fact, inline, moment, notes=notes), new=new, key=key
        )
    except KeyTaken as taken:
        assert key is not None
        # A digest of another canonical form (SQL's begins with "sql:") says nothing about ours: that run answers.
        if taken.digest == key.digest or ":" in taken.digest:
            return CreateRunResult(run_id=taken.run_id)
        paths = await _differing_paths(ports, taken.run_id, payload, config)
        raise IdempotencyKeyReused(key.key, run_id=taken.run_id, paths=paths) from None
    except StaleVersion:
        # The run exists: its id was minted by the caller, who sends again because an answer was lost.
        paths = await _differing_paths(ports, run_id, payload, config, workflow_id=workflow.id)
        if paths:
            reason = f'run_id "{run_id}" belongs to a run created from another payload (differing: {", ".join(paths)}).'
            raise InvalidCommand(reason, field="run_id", hint="Mint a new id for every run.") from None
        return CreateRunResult(run_id=run_id)


def find_fault(workflow: Workflow[Any, Any], input_: bytes, config: Mapping[str, Any]) -> ErrorInfo | None:
    """What is wrong with a run that was created without being checked, as the error that it fails with; or None."""
    try:
        # As nobody has looked at the text either, it may be nested deeper than can be read.
        check_payload_json(input_, what=f'Input of workflow "{workflow.id}"', field="input")
        workflow.encode_input(from_json(input_))
        workflow.merge_config(dict(config.items()))
    except InvalidCommand as error:
        return ErrorInfo(type=type(error).__name__, message=str(error), retryable=False)
    return None


def _key_record(command: CreateRun, workflow: Workflow[Any, Any], *, expires_at: datetime) -> KeyRecord | None:
    """The key with the digest of what the caller sent, in canonical JSON and before any default is applied."""
    if command.idempotency_key is None:
        return None
    config = {_stage_id(stage): values for stage, values in (command.config or {}).items()}
    sent = {"input": _sent(command.input), "config": {stage: _sent(values) for stage, values in config.items()}}
    canonical = json.dumps(sent, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return KeyRecord(
        command_type=CreateRun.type,
        scope=workflow.id,
        key=command.idempotency_key,
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
        expires_at=expires_at,
    )


def _stage_id(stage: str | Stage[Any, Any, Any]) -> str:
    return stage if isinstance(stage, str) else stage.id


def _sent(value: object) -> object:
    """The value as plain JSON; a model counts as the mapping of the fields that it was given."""
    if isinstance(value, BaseModel):
        return _canonical(value.model_dump(mode="json", exclude_unset=True))
    return _canonical(to_jsonable_python(value))


def _canonical(value: object) -> object:
    """The value with whole numbers written in one way: a model has 1.0 where its mapping may have 1 (RFC 8785)."""
    match value:
        case dict():
            return {key: _canonical(item) for key, item in cast("dict[str, object]", value).items()}
        case list():
            return [_canonical(item) for item in cast("list[object]", value)]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _plain(value: Mapping[str, Any] | None, field: str) -> Mapping[str, Any] | None:
    """The value as plain JSON. Raises: PayloadRefused, when no store could keep it."""
    if value is None:
        return None
    plain: Mapping[str, Any] = from_json(encode_payload(value, what=field.capitalize(), field=field))
    return plain


async def _differing_paths(
    ports: CreateRunPorts, run_id: str, payload: Payload, config: Mapping[str, Any], *, workflow_id: str | None = None
) -> list[str]:
    """Where an existing run's payload (and workflow, when named) differs from this one; at most ten paths."""
    try:
        state = await ports.journals.record(run_id, lambda state, _moment: Decision(result=state, state=state))
    except RunNotFound:
        return []  # its transaction has not been committed yet, so only the digests are known
    if workflow_id is not None and workflow_id != state.workflow_id:
        return ["workflow_id"]
    theirs = (await ports.journals.payloads(run_id, [state.input]))[state.input]
    ours = payload if isinstance(payload, bytes) else await ports.blobs.get(payload.key)
    return [
        *_differences(from_json(theirs), from_json(ours), "input"),
        *_differences(dict(state.config), dict(config), "config"),
    ][:10]


def _differences(old: object, new: object, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        ours, theirs = cast("dict[str, object]", new), cast("dict[str, object]", old)
        return [
            d for key in sorted({*ours, *theirs}) for d in _differences(theirs.get(key), ours.get(key), f"{path}.{key}")
        ]
    return [] if old == new else [path]
