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
from kernel.authoring.identifiers import text_problem
from kernel.authoring.payload_guard import encode_payload
from kernel.authoring.stage import Stage
from kernel.command import Command
from kernel.commands.create_run import CreateRun
from kernel.errors import InvalidCommand, WorkflowNotFound
from kernel.model.ids import is_run_id
from kernel.payloads import Limits
from kernel.ports.registry import WorkflowRegistry
from kernel.ports.scheduler import ScheduledCommand

__all__ = ["check_schedule_key", "command_json", "scheduled_command"]

YEAR_MIN, YEAR_MAX = 1970, 9998
"""Of a date in every zone; the first and the last that Python has mean "never" and "always" to drivers of databases."""


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
    at = _checked_moment(at)
    check_schedule_key(key)
    workflow_id: str | None = None
    if isinstance(command, CreateRun):
        workflow_id = command.workflow_id
        command = _creation(command, schedule_id, registry)
    else:
        _check_run_id(command)
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
    """Refuse a key that is blank, too long or no text; None is no key. Raises: InvalidCommand."""
    problem = None if key is None else text_problem(key)
    if problem is not None:
        raise InvalidCommand(f"key {problem}.", field="key", hint="Leave it out, or use a digest of it.")


def _checked_moment(at: object) -> datetime:
    """The moment, of which every database has the year, whatever zone it is in."""
    hint = "Give a datetime with a time zone, such as datetime.now(UTC) + timedelta(hours=1)."
    if not isinstance(at, datetime):
        raise InvalidCommand(f"at must be an aware datetime, not {at!r:.60}.", field="at", hint=hint)
    if at.tzinfo is None or at.utcoffset() is None:
        raise InvalidCommand("at must be an aware datetime.", field="at", hint="Add a time zone, e.g. UTC.")
    if not YEAR_MIN <= at.year <= YEAR_MAX:
        raise InvalidCommand(f"at must be in the years {YEAR_MIN} to {YEAR_MAX}, not {at.year}.", field="at", hint=hint)
    return at


def _check_run_id(command: Command[Any]) -> None:
    """Refuse what names a run that can never be."""
    run_id: object = getattr(command, "run_id", None)
    if run_id is not None and not (isinstance(run_id, str) and is_run_id(run_id)):
        hint = "It is the id that `start` and `leasehold runs` give."
        raise InvalidCommand(f"run_id is no id of a run: {run_id!r:.60}.", field="run_id", hint=hint)


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
