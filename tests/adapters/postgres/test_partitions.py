"""Months are added to the history while others write to it, whatever state the last attempt left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import annotating
from adapters.postgres import PostgresPersistence, migrate, open_postgres
from adapters.postgres.connections import Target
from adapters.postgres.partitions import extended_history
from adapters.postgres.statements import Schema
from kernel.model.ids import run_id_from
from tests.adapters.postgres.stores import Home

pytestmark = pytest.mark.anyio

TODAY = datetime.now(UTC).date()


def months_later(count: int) -> date:
    years, month = divmod(TODAY.month - 1 + count, 12)
    return date(TODAY.year + years, month + 1, 1)


def names(*counts: int) -> list[str]:
    return [f"history_{months_later(count):%Y_%m}" for count in counts]


class Months:
    def __init__(self, url: str, schema: str, admin: asyncpg.Connection) -> None:
        self._target = Target(url=url, purpose="test")
        self.schema = schema
        self._admin = admin

    async def extend(self, today: date = TODAY) -> list[str]:
        return await extended_history(self._target, Schema(self.schema), today=today)

    async def write(self, month: date, offset: timedelta = timedelta(days=2)) -> None:
        """A row of a run that was created in this month."""
        moment = datetime(month.year, month.month, 1, tzinfo=UTC) + offset
        await self._admin.execute(
            f"INSERT INTO {self.schema}.history (run_id, append_id, at, seq, first_seq, events)"
            " VALUES ($1, gen_random_uuid(), $2, 1, 1, '[]')",
            run_id_from(moment, bytes(10)),
            moment,
        )

    async def where(self) -> list[str]:
        """The partitions that hold rows, one mention per row."""
        rows = await self._admin.fetch(
            f"SELECT tableoid::regclass::text AS name FROM {self.schema}.history ORDER BY run_id"
        )
        return [row["name"].rpartition(".")[2] for row in rows]

    async def attached(self) -> set[str]:
        rows = await self._admin.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::regclass",
            f"{self.schema}.history",
        )
        return {row["name"].rpartition(".")[2] for row in rows}


@pytest.fixture
async def months(adapter_url: str, new_schema: str, admin: asyncpg.Connection) -> Months:
    await migrate(adapter_url, schema=new_schema)
    return Months(adapter_url, new_schema, admin)


@pytest.fixture
async def store(months: Months, adapter_url: str) -> AsyncIterator[PostgresPersistence]:
    async with open_postgres(adapter_url, schema=months.schema) as persistence:
        yield persistence


async def test_while_enough_months_are_ahead_nothing_happens(months: Months) -> None:
    assert await months.extend() == []


async def test_months_are_added_up_to_half_a_year_ahead(months: Months) -> None:
    assert await months.extend(months_later(2)) == names(7, 8)

    assert await months.extend(months_later(2)) == []
    assert {"history_before", "history_after", *names(0, 6, 7, 8)} <= await months.attached()


async def test_whoever_comes_next_need_not_wait_until_the_server_has_noticed_that_we_left(
    months: Months, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[asyncpg.Connection] = []

    def stay(connection: asyncpg.Connection) -> None:
        left.append(connection)

    monkeypatch.setattr(asyncpg.Connection, "terminate", stay)

    assert await months.extend(months_later(1)) == names(7)
    assert await months.extend(months_later(2)) == names(8)

    monkeypatch.undo()
    for connection in left:
        connection.terminate()


async def test_rows_go_to_the_month_of_their_run_s_id(months: Months) -> None:
    await months.extend(months_later(1))

    for month in (months_later(0), months_later(7), months_later(8), months_later(-1)):
        await months.write(month)

    assert await months.where() == ["history_before", *names(0, 7), "history_after"]


async def test_a_catch_all_that_holds_rows_becomes_the_partition_of_its_time(months: Months) -> None:
    await months.write(months_later(7))
    await months.write(months_later(8))

    added = await months.extend(months_later(8))

    # Up to the end of next month, as seen from then; the months after it are ordinary ones.
    assert added == names(7, 10, 11, 12, 13, 14)
    await months.write(months_later(9))
    await months.write(months_later(10))
    assert await months.where() == [*names(7) * 3, *names(10)]


async def test_an_attempt_that_ended_after_detaching_is_completed(months: Months, admin: asyncpg.Connection) -> None:
    await admin.execute(f"ALTER TABLE {months.schema}.history DETACH PARTITION {months.schema}.history_after")

    assert await months.extend(months_later(1)) == names(7)

    assert {"history_after", *names(7)} <= await months.attached()


async def test_an_attempt_that_ended_with_a_catch_all_in_use_is_completed(
    months: Months, admin: asyncpg.Connection
) -> None:
    await months.write(months_later(7))
    await admin.execute(f"ALTER TABLE {months.schema}.history DETACH PARTITION {months.schema}.history_after")

    await months.extend(months_later(7))

    assert await months.where() == names(7)


async def test_nothing_that_is_appended_meanwhile_is_refused(months: Months, store: PostgresPersistence) -> None:
    home = Home(store, lambda: datetime.now(UTC))
    await home.open()
    done = False
    appended = 0

    async def write() -> None:
        nonlocal appended
        while not done:
            run = await home.create()
            await run.land(store, run.foreign(annotating))
            appended += 1

    async with create_task_group() as group:
        for _ in range(4):
            group.start_soon(write)
        await months.extend(months_later(3))
        await months.extend(months_later(6))
        done = True

    assert appended > 0
    assert len(await months.where()) == 2 * appended


async def test_a_run_that_no_partition_takes_just_now_is_tried_again(
    months: Months, store: PostgresPersistence, admin: asyncpg.Connection
) -> None:
    home = Home(store, lambda: datetime.now(UTC))
    await home.open()
    partition = f"{months.schema}.{names(0)[0]}"
    bounds = await admin.fetchval(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = $1::regclass", partition
    )
    await admin.execute(f"ALTER TABLE {months.schema}.history DETACH PARTITION {partition}")

    async with create_task_group() as group:
        group.start_soon(home.create)
        await admin.execute("SELECT pg_sleep(0.1)")
        await admin.execute(f"ALTER TABLE {months.schema}.history ATTACH PARTITION {partition} {bounds}")

    assert await months.where() == names(0)


async def test_migrating_again_sees_to_it(months: Months, adapter_url: str, admin: asyncpg.Connection) -> None:
    await admin.execute(f"ALTER TABLE {months.schema}.history DETACH PARTITION {months.schema}.history_after")

    assert await migrate(adapter_url, schema=months.schema) == []

    assert "history_after" in await months.attached()


async def test_the_store_offers_it_for_maintenance(store: PostgresPersistence) -> None:
    assert list(await store.extend_history()) == []
