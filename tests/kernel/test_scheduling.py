"""Commands that wait: written as the JSON that is read when they are due, and refused while somebody can mend them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kernel import (
    Approval,
    CancelRun,
    CreateRun,
    InvalidCommand,
    InvalidConfig,
    InvalidInput,
    PayloadRefused,
    WorkflowNotFound,
)
from kernel.command import Command
from kernel.dispatch import ROUTES, Kernel, parse_command
from kernel.ports.scheduler import ScheduledCommand
from kernel.scheduling import command_json
from tests.kernel.by_hand import Hands, drive
from tests.kernel.definitions import Doc, ExtractConfig, extract, single
from tests.kernel.stories import NOW, RUN_ID
from tests.kernel.test_dispatch import filled

LATER = NOW + timedelta(days=3)


class HandScheduler:
    """Keeps commands by their key."""

    def __init__(self) -> None:
        self.kept: dict[str, ScheduledCommand] = {}

    async def schedule(self, command: ScheduledCommand, /) -> None:
        self.kept[command.key] = command

    async def cancel(self, key: str, /) -> bool:
        return self.kept.pop(key, None) is not None


class Scheduling(Hands):
    """Hands that can also schedule."""

    def __init__(self) -> None:
        super().__init__(single)
        self.scheduler = HandScheduler()

    def kernel(self) -> Kernel:
        kernel = super().kernel()
        return Kernel(
            persistence=kernel.ports.store,
            blob_store=self.blobs,
            clock=self.clock,
            ids=self.ids,
            registry=self.registry,
            executor=self.executor,
            scheduler=self.scheduler,
        )

    def schedule(self, command: Any, *, at: datetime = LATER, key: str | None = None) -> str:
        return drive(self.kernel().schedule(command, at=at, key=key))

    def waiting(self, key: str) -> Mapping[str, Any]:
        data: dict[str, Any] = json.loads(self.scheduler.kept[key].command)
        return data


def creation(**given: Any) -> CreateRun:
    return CreateRun(**{"workflow_id": "single", "input": Doc(path="a.txt"), **given})


@pytest.mark.parametrize("command", ROUTES, ids=lambda command: command.type)
def test_every_command_is_written_as_the_json_that_it_is_read_from(command: type[Command[Any]]) -> None:
    whole = command(**filled(command))

    assert parse_command(json.loads(json.dumps(command_json(whole)))) == whole


def test_a_scheduled_command_waits_under_its_key_until_its_time() -> None:
    hands = Scheduling()

    key = hands.schedule(CancelRun(run_id=RUN_ID, reason="late"), key="cancel it")

    kept = hands.scheduler.kept[key]
    assert (key, kept.due_at, kept.workflow_id) == ("cancel it", LATER, None)
    assert hands.waiting(key) == {"type": "run.cancel", "run_id": RUN_ID, "reason": "late"}


def test_without_a_key_every_scheduling_is_one_of_its_own() -> None:
    hands = Scheduling()

    keys = {hands.schedule(CancelRun(run_id=RUN_ID)) for _ in range(2)}

    assert keys == set(hands.scheduler.kept)
    assert len(keys) == 2


def test_what_waits_can_be_taken_back_once() -> None:
    hands = Scheduling()
    key = hands.schedule(CancelRun(run_id=RUN_ID))

    assert drive(hands.kernel().cancel_scheduled(key))
    assert not drive(hands.kernel().cancel_scheduled(key))


def test_a_scheduled_creation_that_is_dispatched_twice_makes_one_run() -> None:
    hands = Scheduling()
    command = parse_command(hands.waiting(hands.schedule(creation())))

    first, second = hands.dispatch(command), hands.dispatch(command)

    assert first.run_id == second.run_id
    assert len(hands.store.runs) == 1


def test_two_schedulings_under_one_key_make_two_runs() -> None:
    hands = Scheduling()
    commands = [parse_command(hands.waiting(hands.schedule(creation(), key="daily"))) for _ in range(2)]

    assert len({hands.dispatch(command).run_id for command in commands}) == 2


def test_a_creation_s_own_idempotency_key_is_kept_and_means_what_it_means_without_waiting() -> None:
    hands = Scheduling()
    given = creation(idempotency_key="k", config={extract: ExtractConfig(max_chars=7)})

    waiting = parse_command(hands.waiting(hands.schedule(given)))

    assert hands.dispatch(waiting).run_id == hands.dispatch(given).run_id


def test_models_and_stages_become_plain_json_without_their_defaults() -> None:
    hands = Scheduling()

    key = hands.schedule(creation(config={extract: ExtractConfig(max_chars=7)}))

    assert hands.waiting(key)["input"] == {"path": "a.txt"}
    assert hands.waiting(key)["config"] == {"extract": {"max_chars": 7}}
    assert hands.scheduler.kept[key].workflow_id == "single"


def test_typed_annotations_become_plain_json_and_are_made_when_their_run_is() -> None:
    hands = Scheduling()

    key = hands.schedule(creation(annotations={Approval.timestamp: NOW}))

    (plain,) = hands.waiting(key)["annotations"]
    assert plain["attributes"] == {"approval.timestamp": NOW.isoformat().replace("+00:00", "Z")}
    run_id = hands.dispatch(parse_command(hands.waiting(key))).run_id
    assert hands.kinds(run_id) == [["run.created", "annotation.created"]]


@pytest.mark.parametrize(
    "given, error, field",
    [
        ({"annotations": {Approval.timestamp: "soon"}}, InvalidInput, "input"),
        ({"input": {"path": 3}}, InvalidInput, "input"),
        ({"input": Doc(path="a", weight=float("nan"))}, PayloadRefused, "input"),
        ({"config": {"extract": {"max_chars": "many"}}}, InvalidConfig, "config"),
        ({"config": {"another": {}}}, InvalidConfig, "config"),
        ({"workflow_id": "nobody-knows"}, WorkflowNotFound, "workflow_id"),
        ({"workflow_version": "9"}, WorkflowNotFound, "workflow_id"),
        ({"run_id": RUN_ID}, InvalidCommand, "run_id"),
        ({"metadata": {"a": float("inf")}}, PayloadRefused, "command"),
    ],
)
def test_a_creation_that_would_be_refused_then_is_refused_now(
    given: dict[str, Any], error: type[InvalidCommand], field: str
) -> None:
    hands = Scheduling()

    with pytest.raises(error) as refused:
        hands.schedule(creation(**given))

    assert refused.value.field == field
    assert hands.scheduler.kept == {}


@pytest.mark.parametrize(
    "given, field",
    [
        ({"at": datetime(2030, 1, 1)}, "at"),  # noqa: DTZ001 - that is the mistake
        ({"key": " "}, "key"),
        ({"key": "a\0"}, "key"),
        ({"key": "\ud800"}, "key"),
        ({"key": "\u00e9" * 501}, "key"),
    ],
)
def test_a_time_without_a_zone_and_a_key_that_is_none_are_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        Scheduling().schedule(CancelRun(run_id=RUN_ID), **given)

    assert refused.value.field == field


def test_what_is_no_command_cannot_be_scheduled() -> None:
    with pytest.raises(InvalidCommand, match=r"run\.cancel"):
        Scheduling().schedule({"type": "run.cancel", "run_id": RUN_ID})


def test_a_kernel_without_a_scheduler_says_what_it_lacks() -> None:
    with pytest.raises(InvalidCommand, match="scheduler="):
        drive(Hands(single).kernel().schedule(CancelRun(run_id=RUN_ID), at=LATER))
    with pytest.raises(InvalidCommand, match="scheduler="):
        drive(Hands(single).kernel().cancel_scheduled("k"))


@pytest.mark.parametrize(
    "field, given, said",
    [
        ("at", {"at": "tomorrow"}, "at must be an aware datetime, not 'tomorrow'"),
        ("at", {"at": None}, "at must be an aware datetime, not None"),
        ("at", {"at": datetime.max.replace(tzinfo=UTC)}, "years 1970 to 9998, not 9999"),
        ("at", {"at": datetime.min.replace(tzinfo=UTC)}, "years 1970 to 9998, not 1"),
        ("key", {"key": 5}, "key must be a string, not int"),
        ("key", {"key": " "}, "key must not be empty"),
        ("key", {"key": "k" * 1001}, "key is 1001 bytes long"),
        ("key", {"key": "a\0b"}, "key must not contain a NUL character"),
    ],
)
def test_a_moment_or_a_key_that_is_none_is_refused_with_what_is_wrong(
    field: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidCommand) as refused:
        Scheduling().schedule(CancelRun(run_id=RUN_ID), **given)

    assert refused.value.field == field
    assert said in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("run_id", ["x", "", 5])
def test_a_command_for_a_run_that_can_never_be_is_refused_when_it_is_scheduled(run_id: Any) -> None:
    with pytest.raises(InvalidCommand, match="run_id is no id of a run") as refused:
        Scheduling().schedule(CancelRun(run_id=run_id))

    assert refused.value.field == "run_id"
