"""Who watches the batches is told of each one, whatever becomes of it, and can do no harm."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import annotating, completing
from kernel.ports.persistence import Append
from tests.adapters.postgres.conftest import Open
from tests.adapters.postgres.stores import Home, outcome_of

pytestmark = pytest.mark.anyio

Told = list[tuple[list[str], int, int, Exception | None]]


def watching(home: Home) -> Told:
    told: Told = []

    def note(appends: Sequence[Append], started_ns: int, ended_ns: int, error: Exception | None) -> None:
        told.append(([append.append_id for append in appends], started_ns, ended_ns, error))

    home.store.observe_batches(note)
    return told


async def test_every_append_is_told_once_with_its_batch_and_when(open_at: Open, adapter_url: str, home: Home) -> None:
    session = await home.session()
    runs = [await home.started(session) for _ in range(50)]
    appends = [run.owned(completing) for run in runs]
    async with open_at(adapter_url) as store:
        told = watching(watched := Home(store, home.now, home.workflow))
        before = time.time_ns()

        async with create_task_group() as group:
            for append in appends:
                group.start_soon(watched.store.append, append)

    assert sorted(name for names, *_ in told for name in names) == sorted(append.append_id for append in appends)
    assert len(told) <= 4
    for _, started_ns, ended_ns, error in told:
        assert before <= started_ns < ended_ns <= time.time_ns()
        assert error is None


async def test_an_observer_that_raises_harms_no_append(open_at: Open, adapter_url: str, home: Home) -> None:
    run = await home.create()
    async with open_at(adapter_url) as store:

        def stumble(*_: object) -> None:
            raise RuntimeError("the observer's own mistake")

        store.observe_batches(stumble)
        told = watching(Home(store, home.now, home.workflow))

        assert await outcome_of(store, run.foreign(annotating)) is None

    assert len(told) == 1
