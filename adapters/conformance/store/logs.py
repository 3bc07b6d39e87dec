"""What bodies log: kept in order, resumed by id, and no line harms another."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from anyio import create_task_group

from adapters.conformance.store.worlds import World
from kernel.ports.persistence import LogLine

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


def a_line(run_id: str, message: str, at: datetime, **fields: Any) -> LogLine:
    return LogLine(
        run_id=run_id, stage_id="extract", execution=1, attempt=2, at=at, level="INFO", message=message, fields=fields
    )


def progress(run_id: str, value: float, at: datetime, *, stage_id: str | None = "extract") -> LogLine:
    return replace(a_line(run_id, "working", at, value=value), level="PROGRESS", stage_id=stage_id)


async def written(world: World, count: int) -> str:
    run = await world.create()
    await world.store.write_logs([a_line(run.id, f"line {n}", world.now(), n=n) for n in range(count)])
    return run.id


async def test_lines_come_back_as_they_were_written_and_in_order(world: World) -> None:
    run = await world.create()
    lines = [a_line(run.id, f"line {n}", world.now(), n=n, tags=["x", {"y": None}]) for n in range(5)]

    await world.store.write_logs(lines)

    read = await world.other.read_logs(run.id)
    assert [_without_id(line) for line in read] == [_without_id(line) for line in lines]
    ids = [line.id for line in read]
    assert ids == sorted(set(ids))
    assert ids[0] > 0


def _without_id(line: LogLine) -> tuple[object, ...]:
    return (
        line.run_id,
        line.stage_id,
        line.execution,
        line.attempt,
        line.at,
        line.level,
        line.message,
        dict(line.fields),
    )


async def test_a_line_need_not_belong_to_a_stage(world: World) -> None:
    run = await world.create()
    line = LogLine(
        run_id=run.id, stage_id=None, execution=None, attempt=None, at=world.now(), level="WARNING", message="parked"
    )

    await world.store.write_logs([line])

    (read,) = await world.store.read_logs(run.id)
    assert _without_id(read) == _without_id(line)


async def test_progress_is_a_line_like_any_other(world: World) -> None:
    run = await world.create()
    now = world.now()

    await world.store.write_logs(
        [a_line(run.id, "before", now), progress(run.id, 0.5, now), a_line(run.id, "after", now)]
    )

    (_, line, _) = await world.other.read_logs(run.id)
    assert (line.level, line.fields) == ("PROGRESS", {"value": 0.5})


async def test_the_last_progress_of_each_stage_is_told(world: World) -> None:
    run, other = await world.create(), await world.create()
    now = world.now()
    lines = [progress(run.id, value, now) for value in (0.1, 0.2)]
    await world.store.write_logs([*lines, progress(run.id, 0.7, now, stage_id="report"), progress(other.id, 0.9, now)])

    await world.store.write_logs([progress(run.id, 0.3, now), a_line(run.id, "unrelated", now)])

    told = await world.other.read_progress(run.id)
    assert {stage_id: line.fields["value"] for stage_id, line in told.items()} == {"extract": 0.3, "report": 0.7}
    assert told["extract"] == [line for line in await world.store.read_logs(run.id) if line.level == "PROGRESS"][-1]


async def test_a_run_without_progress_tells_none(world: World) -> None:
    run = await world.create()
    lines = [a_line(run.id, "hello", world.now()), progress(run.id, 0.5, world.now(), stage_id=None)]

    await world.store.write_logs(lines)

    assert await world.store.read_progress(run.id) == {}
    assert await world.store.read_progress("no-run") == {}


async def test_reading_goes_on_after_the_last_line_seen(world: World) -> None:
    run_id = await written(world, 5)
    first = await world.store.read_logs(run_id, limit=2)

    rest = await world.store.read_logs(run_id, after=first[-1].id)

    assert [line.message for line in first] == ["line 0", "line 1"]
    assert [line.message for line in rest] == ["line 2", "line 3", "line 4"]
    assert list(await world.store.read_logs(run_id, after=rest[-1].id)) == []


async def test_later_writes_have_higher_ids(world: World) -> None:
    run_id = await written(world, 2)
    (_, last) = await world.store.read_logs(run_id)

    await world.other.write_logs([a_line(run_id, "later", world.now())])

    (later,) = await world.store.read_logs(run_id, after=last.id)
    assert later.message == "later"


async def test_runs_have_separate_logs(world: World) -> None:
    first, second = await world.create(), await world.create()

    await world.store.write_logs([a_line(first.id, "a", world.now()), a_line(second.id, "b", world.now())])

    assert [line.message for line in await world.store.read_logs(first.id)] == ["a"]
    assert [line.message for line in await world.store.read_logs(second.id)] == ["b"]


async def test_a_run_that_logged_nothing_has_no_lines(world: World) -> None:
    run = await world.create()

    assert list(await world.store.read_logs(run.id)) == []
    assert list(await world.store.read_logs("no-run")) == []


async def test_writing_no_lines_is_allowed(world: World) -> None:
    await world.store.write_logs([])


async def test_lines_of_one_run_written_at_once_are_all_kept(world: World) -> None:
    run = await world.create()

    async with create_task_group() as group:
        for n in range(20):
            lines = [a_line(run.id, f"{n}.{m}", world.now()) for m in range(5)]
            group.start_soon((world.store, world.other)[n % 2].write_logs, lines)

    read = [line.message for line in await world.store.read_logs(run.id)]
    assert sorted(read) == sorted(f"{n}.{m}" for n in range(20) for m in range(5))
    for n in range(20):
        assert [message for message in read if message.startswith(f"{n}.")] == [f"{n}.{m}" for m in range(5)]


async def test_fields_that_are_changed_afterwards_are_kept_as_logged(world: World) -> None:
    run = await world.create()
    tags = ["x"]
    await world.store.write_logs([a_line(run.id, "tagged", world.now(), tags=tags)])
    tags.append("y")

    (read,) = await world.store.read_logs(run.id)

    assert read.fields == {"tags": ["x"]}


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
async def test_a_line_that_cannot_be_stored_as_it_is_keeps_its_place(world: World, text: str) -> None:
    run = await world.create()
    now = world.now()
    lines = [a_line(run.id, "before", now), a_line(run.id, text, now, a=[text]), a_line(run.id, "after", now)]

    await world.store.write_logs(lines)

    before, damaged, after = await world.store.read_logs(run.id)
    assert (before.message, after.message) == ("before", "after")
    assert damaged.message == "a\ufffdb"
    assert damaged.fields == {"a": ["a\ufffdb"]}


async def test_fields_that_are_not_json_are_kept_as_text(world: World) -> None:
    run = await world.create()
    when = datetime(2026, 1, 2, tzinfo=UTC)

    await world.store.write_logs(
        [a_line(run.id, "odd", world.now(), path=Path("a.txt"), ratio=float("nan"), when=when)]
    )

    (line,) = await world.store.read_logs(run.id)
    assert line.fields == {"path": "a.txt", "ratio": "nan", "when": str(when)}
