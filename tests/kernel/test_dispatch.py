"""The command table, and reading commands from JSON."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import NoneType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic_core import to_jsonable_python

from kernel.authoring import NewAnnotations
from kernel.command import Command
from kernel.commands.cancel_run import CancelRun
from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob
from kernel.dispatch import ROUTES, parse_command
from kernel.errors import InvalidCommand, RunNotFound
from tests.kernel.by_hand import Hands
from tests.kernel.definitions import Doc, single
from tests.kernel.stories import NOW, RUN_ID


def test_every_row_is_found_under_its_own_command() -> None:
    assert all(row.command is command for command, row in ROUTES.items())
    assert len({command.type for command in ROUTES}) == len(ROUTES)


def test_a_command_travels_to_its_handler_and_its_result_comes_back() -> None:
    hands = Hands(single)

    created = hands.dispatch(CreateRun(workflow_id="single", input=Doc(path="a.txt")))
    executed = hands.dispatch(ExecuteJob(run_id=created.run_id, stage_id="extract"))

    assert (created.status, executed.outcome) == ("PENDING", "completed")


def test_what_a_handler_raises_comes_out_unchanged() -> None:
    with pytest.raises(RunNotFound) as refused:
        Hands().dispatch(CancelRun(run_id="nobody"))

    assert refused.value.run_id == "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRun(Command[None]):
    """A command that nobody handles."""

    type: ClassVar[str] = "run.pause"


@pytest.mark.parametrize("thing", [PauseRun(), "run.cancel", CancelRun, None])
def test_what_is_not_a_command_is_refused_with_the_list_of_commands(thing: Any) -> None:
    with pytest.raises(InvalidCommand) as refused:
        Hands().dispatch(thing)

    assert refused.value.field == "type"
    assert "run.cancel" in str(refused.value)


def test_two_kernels_over_two_stores_share_nothing() -> None:
    one, other = Hands(single), Hands(single)

    run_id = one.dispatch(CreateRun(workflow_id="single", input=Doc(path="a.txt"))).run_id

    with pytest.raises(RunNotFound):
        other.dispatch(CancelRun(run_id=run_id))


def test_two_kernels_over_one_store_see_the_same_runs() -> None:
    one, other = Hands(single), Hands(single)
    other.store, other.journals = one.store, one.journals

    run_id = one.dispatch(CreateRun(workflow_id="single", input=Doc(path="a.txt"))).run_id

    assert other.dispatch(CancelRun(run_id=run_id)).cancelled


# -- from JSON --------------------------------------------------------------------------------------------------------

# A value for every field of a type, which no command refuses; a run's id is as good as any text.
VALUES: dict[Any, Any] = {
    str: RUN_ID,
    int: 3,
    bool: True,
    datetime: NOW,
    Mapping: {"key": "text"},
    Any: [1, {"a": None}],
    Sequence: [NewAnnotations(attributes={"note": 1})],
}


def filled(command: type[Command[Any]]) -> dict[str, Any]:
    """A value for every field of a command."""
    values: dict[str, Any] = {}
    hints = get_type_hints(command)
    for name in inspect.signature(command).parameters:
        hint = hints[name]
        if NoneType in get_args(hint):
            hint = next(of for of in get_args(hint) if of is not NoneType)
        kind = get_origin(hint) or hint
        if kind is Literal:
            values[name] = get_args(hint)[-1]
            continue
        assert kind in VALUES, f"say in VALUES what the field {name} of {command.__name__} may be, a {kind}"
        values[name] = VALUES[kind]
    return values


@pytest.mark.parametrize("command", ROUTES, ids=lambda command: command.type)
def test_every_command_can_be_read_from_json_with_all_its_fields(command: type[Command[Any]]) -> None:
    fields = filled(command)

    assert parse_command({"type": command.type, **to_jsonable_python(fields)}) == command(**fields)


def test_a_creation_is_read_with_everything_that_json_can_say() -> None:
    command = parse_command(
        {
            "type": "run.create",
            "workflow_id": "documents",
            "input": [1, {"a": None}],
            "config": {"extract": {"max_chars": 5}},
            "run_at": "2026-01-01T12:00:00+00:00",
            "metadata": {"by": "Ada"},
            "priority": 9,
        }
    )

    assert isinstance(command, CreateRun)
    assert (command.input, command.config) == ([1, {"a": None}], {"extract": {"max_chars": 5}})
    assert (command.run_at, command.priority) == (datetime(2026, 1, 1, 12, tzinfo=UTC), 9)


@pytest.mark.parametrize(
    "data, field, said",
    [
        ({"type": "run.pause"}, "type", "run.cancel"),
        ({"run_id": "r"}, "type", "run.cancel"),
        ({"type": ["run.cancel"], "run_id": "r"}, "type", "run.cancel"),
        ({"type": "run.cancel"}, "run_id", "required"),
        ({"type": "run.cancel", "run_id": 3}, "run_id", "string"),
        ({"type": "run.cancel", "run_id": "r", "raeson": "no"}, "raeson", "reason"),
        ({"type": "run.cancel", "runId": "r"}, "runId", "run_id"),
        ({"type": "run.create", "workflow_id": "w", "input": 1, "priority": "high"}, "priority", "integer"),
        ({"type": "run.create", "workflow_id": "w", "input": 1, "priority": 11}, "priority", "0 to 9"),
        ({"type": "run.create", "workflow_id": "w", "input": 1, "run_at": "2026-01-01T12:00:00"}, "run_at", "aware"),
        ({"type": "lease.reapStale", "max_sessions": 0}, "max_sessions", "at least 1"),
        (["run.cancel"], "type", "JSON object"),
        ("run.cancel", "type", "JSON object"),
    ],
)
def test_what_cannot_be_read_is_refused_by_the_name_of_its_field(data: Any, field: str, said: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        parse_command(data)

    assert refused.value.field == field
    assert said in str(refused.value)
