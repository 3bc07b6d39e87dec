"""Publishers that die: the small form of `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.sinks.nats_server import SERVER
from tests.chaos.publishing import killed_at_random
from tests.conftest import SEED

pytestmark = [pytest.mark.anyio, pytest.mark.processes, pytest.mark.timeout(120)]

needs_server = pytest.mark.skipif(
    SERVER is None, reason="there is no nats-server here (Debian: apt install nats-server)"
)


@pytest.mark.parametrize("kind", ["webhook", pytest.param("jetstream", marks=needs_server)])
async def test_no_event_is_lost_and_each_run_s_come_in_order(database_url: str, kind: str, tmp_path: Path) -> None:
    report = await killed_at_random(database_url, kind, runs=100, kills=3, seed=SEED, folder=tmp_path)

    assert (report.runs, report.kills) == (100, 3)
    assert (report.lost, report.unknown, report.disordered) == (0, 0, 0), report
    assert report.events >= 800
