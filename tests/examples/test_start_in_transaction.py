"""examples/start_in_transaction.py: an order and its run are there together, or not at all."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from runtime.bootstrap import migrate_database
from runtime.config import Settings

EXAMPLE = Path(__file__).parents[2] / "examples" / "start_in_transaction.py"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_order_is_packed_and_the_refused_one_leaves_no_run(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await migrate_database(Settings(database_url=database_url))

    await runpy.run_path(str(EXAMPLE))["main"](database_url)

    assert capsys.readouterr().out.splitlines() == [
        "order 1: one lamp, packed",
        "refused: an order needs an item",
        "1 order",
        "1 run",
    ]
