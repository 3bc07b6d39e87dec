"""A command that is to wait, as JSON; what could not be dispatched later is refused now.

Separate from the table of commands, because it concerns every one of them and waits for nothing. It must not know
where commands wait, nor who dispatches them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from kernel.authoring.annotations import plain_annotations
from kernel.authoring.payload_guard import encode_payload
from kernel.authoring.stage import Stage
from kernel.command import Command
from kernel.commands.create_run import CreateRun
from kernel.errors import InvalidCommand, WorkflowNotFound
from kernel.payloads import Limits
from kernel.ports.registry import WorkflowRegistry
from kernel.ports.scheduler import ScheduledCommand

__all__ = ["SCHEDULE_KEY_BYTES_MAX", "check_schedule_key", "command_json", "scheduled_command"]

SCHEDULE_KEY_BYTES_MAX = 1000
"""As UTF-8; as long as an idempotency key, and for the same reason."""


def scheduled_command(
    command: Command[Any],
    *,
    at: datetime,
    key: str | None,
    schedule_id: str,
    registry: WorkflowRegistry,
    limits: Limits,
) -> ScheduledCommand:
    """The command as it is stored; without a key its `schedule_id` is one.

    A creation is validated as if it were dispatched now. It is given an idempotency key of this very scheduling when
    it has none: a command may be dispatched twice, and must not create two runs.
    Raises: InvalidCommand, naming the field; WorkflowNotFound, InvalidInput, InvalidConfig; PayloadRefused.
    """
    if at.tzinfo is None:
        raise InvalidCommand("at must be an aware datetime.", field="at", hint="Add a time zone, e.g. UTC.")
    check_schedule_key(key)
    workflow_id: str | None = None
    if isinstance(command, CreateRun):
        workflow_id = command.workflow_id
        command = _creation(command, schedule_id, registry)
    text = encode_payload(
        command_json(command), what="Scheduled command", field="command", bytes_max=limits.payload_bytes_max
    )
    return ScheduledCommand(
        key=schedule_id if key is None else key,
        schedule_id=schedule_id,
        due_at=at,
        command=text,
        workflow_id=workflow_id,
    )


def check_schedule_key(key: str | None) -> None:
    """Refuse a key that is blank, too long or no text. Raises: InvalidCommand."""
    if key is None:
        return
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidCommand("key is not valid UTF-8 text.", field="key") from None
    if not key.strip() or "\0" in key or size > SCHEDULE_KEY_BYTES_MAX:
        reason = f"key must have 1 to {SCHEDULE_KEY_BYTES_MAX} bytes as UTF-8 and no NUL character, and has {size}."
        raise InvalidCommand(reason, field="key", hint="Leave it out, or use a digest of it.")


def command_json(command: Command[Any]) -> dict[str, Any]:
    """What `parse_command` makes the same command of; fields that are None are left out.

    Models become mappings of the fields that they were given, so that defaults are those of the day of dispatch.
    """
    values = {name: getattr(command, name) for name in inspect.signature(type(command)).parameters}
    given = {name: _plain(value) for name, value in values.items() if value is not None or name == "input"}
    return {"type": command.type, **given}


def _creation(command: CreateRun, schedule_id: str, registry: WorkflowRegistry) -> CreateRun:
    if command.run_id is not None:
        raise InvalidCommand(
            "A scheduled run.create cannot name a run_id, which must be minted when the run is created.",
            field="run_id",
            hint="Give it an idempotency_key.",
        )
    workflow = registry.find_workflow(command.workflow_id, command.workflow_version)
    if workflow is None:
        known = [workflow_id for workflow_id, _ in registry.known()]
        raise WorkflowNotFound(command.workflow_id, version=command.workflow_version, known=known)
    workflow.encode_input(command.input)
    workflow.merge_config(command.config)
    plain = replace(
        command,
        input=_plain(command.input),
        config=_plain(command.config),
        annotations=plain_annotations(command.annotations),
        idempotency_key=command.idempotency_key or f"scheduled {schedule_id}",
    )
    # Again, because what will be dispatched has gone through JSON.
    workflow.encode_input(plain.input)
    workflow.merge_config(plain.config)
    return plain


def _plain(value: object) -> Any:
    """As JSON, models under their fields' names; stages as keys become their ids."""
    match value:
        case BaseModel():
            return value.model_dump(mode="json", by_alias=False, exclude_unset=True, round_trip=True)
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            return {key.id if isinstance(key, Stage) else key: _plain(item) for key, item in items}
        case _:
            return to_jsonable_python(value, by_alias=False, round_trip=True)
