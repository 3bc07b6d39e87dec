"""The serverless service in process, on both event loops: requests alone bring a run to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from examples.serverless import greetings, service
from tests.runtime.shared_store import SharedStore, in_memory

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def platform(store: SharedStore) -> AsyncGenerator[httpx.AsyncClient]:
    """One instance of the service, and whoever sends it requests."""
    app = service(lambda: store.host(greetings))
    async with app.router.lifespan_context(app) as state:

        async def started_app(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(started_app), base_url="http://test") as client:
            yield client


async def test_a_run_is_brought_to_its_end_by_requests_alone() -> None:
    async with platform(in_memory()) as http:
        location = (await http.post("/runs", json={"name": "Ada"})).headers["Location"]
        tick = (await http.post("/tick")).json()
        work = (await http.post("/work?jobs=10")).json()
        run = (await http.get(location)).json()

    assert (tick["claimed"], tick["errors"]) == (1, {})
    assert work == {"processed": 2, "succeeded": 2, "failed": 0}
    assert (run["status"], run["output"], run["owner"]) == ("COMPLETED", "HELLO, ADA!", None)


async def test_one_job_is_one_message_and_a_second_delivery_changes_nothing() -> None:
    store = in_memory()
    async with platform(store) as one, platform(store) as other:
        run_id = (await one.post("/runs", json={"name": "Ada"})).json()["id"]
        await one.post("/tick")
        message = {"job_id": f"{run_id}/greet", "run_id": run_id, "stage_id": "greet"}
        first = (await one.post("/jobs", json=message)).json()
        again = (await other.post("/jobs", json=message)).json()

    assert (first["outcome"], first["ghost"], first["error"]) == ("completed", False, None)
    assert (again["outcome"], again["ghost"]) == ("failed", True)


async def test_a_bad_request_is_refused_by_name() -> None:
    async with platform(in_memory()) as http:
        refused = await http.post("/work?jobs=0")

    assert (refused.status_code, refused.json()["type"]) == (400, "InvalidCommand")
