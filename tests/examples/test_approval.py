"""examples/approval.py: the run waits for a person, and for nothing longer than that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from examples import approval
from runtime import Client
from runtime.bootstrap import migrate_database
from runtime.config import Settings
from tests.runtime.shared_store import SharedStore, in_memory, on_postgres, until

pytestmark = pytest.mark.anyio

TICKET = {"what": "a train ticket", "euros": 90}
YES = {"approved": True, "by": "Ada"}


@pytest.fixture
async def store(request: pytest.FixtureRequest) -> SharedStore:
    """In memory, unless the test asks for a database."""
    if getattr(request, "param", "memory") == "memory":
        return in_memory()
    url: str = request.getfixturevalue("database_url")
    await migrate_database(Settings(database_url=url))
    return on_postgres(url)


@pytest.fixture
async def client(store: SharedStore) -> AsyncIterator[Client]:
    """Whoever executes; the service of the test only serves, and so finds the run driven elsewhere."""
    async with store.supervisor(approval.expenses, passivate_after=0.0) as supervisor:
        yield supervisor


@pytest.fixture
async def http(
    store: SharedStore, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setattr(approval, "DECISIONS", anyio.Path(tmp_path))
    app = approval.service(lambda: store.client(approval.expenses))
    async with app.router.lifespan_context(app) as state:

        async def started_app(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(started_app), base_url="http://test") as http:
            yield http


async def suspended(client: Client, run_id: str) -> bool:
    return (await client.run(run_id).describe()).status == "SUSPENDED"


@pytest.mark.parametrize("store", ["memory", "postgres"], indirect=True)
async def test_the_run_goes_on_within_a_second_of_the_decision(client: Client, http: httpx.AsyncClient):
    run_id: str = (await http.post("/expenses", json=TICKET)).json()["id"]
    await until(lambda: suspended(client, run_id))

    decided_at = datetime.now(UTC)
    answer = await http.post(f"/expenses/{run_id}/decision", json=YES)
    run = client.run(run_id, approval.expenses)

    assert answer.json() == {"waiting": ["approve"]}
    assert await run.result() == approval.Decision(approved=True, by="Ada")
    [completed] = [event for event in await run.history() if event.type == "run.completed"]
    assert completed.at - decided_at < timedelta(seconds=1)


async def test_nothing_goes_on_before_the_decision(client: Client, http: httpx.AsyncClient):
    run_id: str = (await http.post("/expenses", json=TICKET)).json()["id"]
    await until(lambda: suspended(client, run_id))

    assert await client.run(run_id).poll() == ("approve",)

    await until(lambda: suspended(client, run_id))
    assert (await client.run(run_id).describe()).output is None


async def test_a_decision_about_nothing_is_not_found(http: httpx.AsyncClient, tmp_path: Path):
    answer = await http.post("/expenses/019a0000-0000-7000-8000-000000000000/decision", json=YES)

    assert answer.status_code == 404
    assert list(tmp_path.iterdir()) == []
