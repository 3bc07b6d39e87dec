"""Who mints identifiers, and who tells the time where there is no database."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from adapters.memory import SeededIds
from adapters.system import RandomIds, SystemClock
from kernel.model.ids import is_run_id, minted_at
from kernel.ports.ids import Ids

NOW = datetime(2026, 3, 4, 5, 6, 7, 891000, tzinfo=UTC)

both = pytest.mark.parametrize("ids", [RandomIds(), SeededIds(7)], ids=["random", "seeded"])


@both
def test_a_run_id_is_a_uuid_of_its_moment(ids: Ids) -> None:
    run_id = ids.run_id(NOW)

    assert is_run_id(run_id)
    assert UUID(run_id).version == 7
    assert minted_at(run_id) == NOW


@both
def test_an_append_id_is_a_random_uuid(ids: Ids) -> None:
    append_id = ids.append_id()

    assert str(UUID(append_id)) == append_id
    assert UUID(append_id).version == 4


@both
def test_identifiers_do_not_repeat(ids: Ids) -> None:
    drawn = [ids.run_id(NOW) for _ in range(1000)] + [ids.append_id() for _ in range(1000)]

    assert len(set(drawn)) == 2000


def test_a_seed_repeats_its_identifiers() -> None:
    first, second, other = SeededIds("a seed"), SeededIds("a seed"), SeededIds("another")

    drawn = [[ids.run_id(NOW), ids.append_id(), ids.run_id(NOW)] for ids in (first, second, other)]

    assert drawn[0] == drawn[1]
    assert set(drawn[0]).isdisjoint(drawn[2])


def test_the_system_tells_the_time_with_its_zone() -> None:
    before = datetime.now(UTC)

    now = SystemClock().now()

    assert now.utcoffset() == timedelta(0)
    assert before <= now <= datetime.now(UTC)
