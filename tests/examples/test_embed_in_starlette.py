"""The web service: in process, on both event loops, and under a real server with two workers on a real Postgres."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from adapters.memory import MemoryPersistence
from adapters.postgres import migrate
from adapters.system import SystemClock
from examples.embed_in_starlette import greetings, service
from kernel.ports.persistence import SessionInfo
from runtime import App, Client, Supervisor
from tests.runtime.gates import Doc, Gate
from tests.runtime.shared_store import BreakableStore, SharedStore, in_memory, until

ROOT = Path(__file__).parents[2]
ADA = {"name": "Ada"}


@asynccontextmanager
async def browser(open_client: Callable[[], Client]) -> AsyncGenerator[httpx.AsyncClient]:
    """The service in this process, from its start to its end, and somebody who talks to it."""
    app = service(open_client)
    async with app.router.lifespan_context(app) as state:

        async def started_app(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        transport = httpx.ASGITransport(started_app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def finished(http: httpx.AsyncClient, location: str) -> dict[str, Any]:
    """The run, once it has ended."""

    async def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = (await http.get(location)).json()
        return run if run["completed_at"] else None

    found = await until(ended)
    assert found is not None
    return found


def messages(text: str) -> list[dict[str, Any]]:
    """Server-sent events as dictionaries of their fields."""
    blocks = [block for block in text.split("\n\n") if block]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


# -- in process --------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> SharedStore:
    return in_memory()


@pytest.mark.anyio
async def test_a_run_is_accepted_executed_and_shown(memory: SharedStore):
    async with browser(lambda: memory.supervisor(greetings)) as http:
        accepted = await http.post("/runs", json=ADA)
        assert accepted.status_code == 202
        assert accepted.headers["Location"] == f"/runs/{accepted.json()['id']}"
        run = await finished(http, accepted.headers["Location"])
    assert (run["status"], run["input"], run["output"]) == ("COMPLETED", ADA, "Hello, Ada!")


@pytest.mark.anyio
async def test_the_same_key_is_the_same_run_and_with_another_input_a_conflict(memory: SharedStore):
    async with browser(lambda: memory.supervisor(greetings)) as http:
        key = {"Idempotency-Key": "k"}
        first = await http.post("/runs", json=ADA, headers=key)
        again = await http.post("/runs", json=ADA, headers=key)
        other = await http.post("/runs", json={"name": "Bob"}, headers=key)
    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 409)
    assert first.json() == again.json()
    assert other.json()["type"] == "IdempotencyKeyReused"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body, finding",
    [
        (b'{"nmae": "Ada"}', {"loc": ["name"], "msg": "Field required", "type": "missing"}),
        (b'{"name": 3}', {"loc": ["name"], "msg": "Input should be a valid string", "type": "string_type"}),
    ],
)
async def test_an_invalid_input_is_unprocessable_and_says_where_and_why(
    memory: SharedStore, body: bytes, finding: object
):
    async with browser(lambda: memory.client(greetings)) as http:
        refused = await http.post("/runs", content=body)
    assert (refused.status_code, refused.json()["errors"]) == (422, [finding])


@pytest.mark.anyio
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]"])
async def test_what_is_no_input_at_all_is_unprocessable_too(memory: SharedStore, body: bytes):
    async with browser(lambda: memory.client(greetings)) as http:
        assert (await http.post("/runs", content=body)).status_code == 422


@pytest.mark.anyio
async def test_an_empty_key_is_a_bad_request(memory: SharedStore):
    async with browser(lambda: memory.client(greetings)) as http:
        refused = await http.post("/runs", json=ADA, headers={"Idempotency-Key": " "})
    assert (refused.status_code, refused.json()["type"]) == (400, "InvalidCommand")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/runs/01941f29-7c00-7300-9ef5-df2085261bd7", "/runs/nonsense"])
async def test_an_unknown_run_is_not_found(memory: SharedStore, path: str):
    async with browser(lambda: memory.client(greetings)) as http:
        answers = [await http.get(path), await http.get(f"{path}/events")]
    assert [(answer.status_code, answer.json()["type"]) for answer in answers] == [(404, "RunNotFound")] * 2


@pytest.mark.anyio
async def test_while_the_database_is_away_the_service_is_unavailable_for_a_moment():
    broken = BreakableStore(MemoryPersistence(SystemClock()))
    async with browser(lambda: in_memory(broken).client(greetings)) as http:
        broken.down = True
        refused = await http.post("/runs", json=ADA)
        broken.down = False
        accepted = await http.post("/runs", json=ADA)
    assert (refused.status_code, refused.headers["Retry-After"], accepted.status_code) == (503, "1", 202)


@pytest.mark.anyio
async def test_events_follow_a_run_to_its_end_and_resume_after_the_last_one_seen(memory: SharedStore):
    async with browser(lambda: memory.supervisor(greetings)) as http:
        location = (await http.post("/runs", json=ADA)).headers["Location"]
        whole = await http.get(f"{location}/events")
        assert whole.headers["Content-Type"].startswith("text/event-stream")
        events = messages(whole.text)
        assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
        assert [event["event"] for event in events][-2:] == ["stage.completed", "run.completed"]
        assert json.loads(events[-1]["data"])["output"] == "Hello, Ada!"
        rest = await http.get(f"{location}/events", headers={"Last-Event-ID": "3"})
        assert messages(rest.text) == events[3:]


@pytest.mark.anyio
async def test_a_service_that_only_serves_leaves_the_execution_to_others(memory: SharedStore):
    async with browser(lambda: memory.client(greetings)) as http:
        location = (await http.post("/runs", json=ADA)).headers["Location"]
        assert (await http.get(location)).json()["waiting_for"] == "claim"
        async with memory.supervisor(greetings):
            assert (await finished(http, location))["output"] == "Hello, Ada!"


@pytest.mark.anyio
async def test_the_end_of_the_service_hands_back_what_it_executes(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.client(workflow) as client:
        async with browser(lambda: memory.supervisor(workflow, drain_grace=0.0)):
            run = await client.start(workflow, Doc(text="x"))
            await until(lambda: gate.entered)
        assert gate.interrupted
        assert (await run.describe()).owner is None


# -- under a real server -----------------------------------------------------------------------------------------------


@contextmanager
def uvicorn(database_url: str, log: Path, *arguments: str) -> Iterator[str]:
    """A server on a free port of this machine; ended with a signal, and waited for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", *arguments, "--app-dir", "examples", "--port", port]
    environment = {**os.environ, "LEASEHOLD_DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM), log.read_text()
    finally:
        process.kill()
        process.wait(10)


async def reachable(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/runs/nonsense")).status_code == 404
    except httpx.TransportError:
        return False


@pytest.mark.processes
@pytest.mark.timeout(120)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_two_workers_of_a_server_serve_and_execute_and_end_when_told(database_url: str, tmp_path: Path):
    await anyio.to_thread.run_sync(lambda: asyncio.run(migrate(database_url)))
    log = tmp_path / "uvicorn.log"
    async with Client(App(workflows=[greetings]), database=database_url) as observer:

        async def both_work() -> bool:
            return await other_sessions(observer) == 2

        with uvicorn(database_url, log, "embed_in_starlette:app", "--workers", "2") as url:
            async with httpx.AsyncClient(base_url=url, timeout=20) as http:
                await until(lambda: reachable(http), within_s=60)
                names = [f"person {n}" for n in range(20)]
                runs = [await http.post("/runs", json={"name": n}, headers={"Idempotency-Key": n}) for n in names]
                outputs = [(await finished(http, run.headers["Location"]))["output"] for run in runs]
                assert outputs == [f"Hello, {name}!" for name in names]
                again = await http.post("/runs", json={"name": names[0]}, headers={"Idempotency-Key": names[0]})
                assert again.json() == runs[0].json()
                async with http.stream("GET", f"{again.headers['Location']}/events") as stream:
                    lines = [line async for line in stream.aiter_lines() if line.startswith("event: ")]
                assert (lines[0], lines[-1]) == ("event: run.created", "event: run.completed")
            # One of them may have done all of it while the other was still starting.
            await until(both_work, within_s=60)
        assert await other_sessions(observer) == 0
        assert "Traceback" not in log.read_text()


@pytest.mark.processes
@pytest.mark.timeout(120)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_server_that_only_serves_opens_no_session(database_url: str, tmp_path: Path):
    await anyio.to_thread.run_sync(lambda: asyncio.run(migrate(database_url)))
    arguments = ("embed_in_starlette:web_only", "--factory")
    async with Client(App(workflows=[greetings]), database=database_url) as observer:
        with uvicorn(database_url, tmp_path / "uvicorn.log", *arguments) as url:
            async with httpx.AsyncClient(base_url=url, timeout=20) as http:
                await until(lambda: reachable(http), within_s=60)
                location = (await http.post("/runs", json=ADA)).headers["Location"]
                assert await other_sessions(observer) == 0
                async with Supervisor(observer.app, database=database_url):
                    assert (await finished(http, location))["output"] == "Hello, Ada!"


async def other_sessions(client: Client) -> int:
    """How many sessions live, by the answer that one more of them gets."""
    persistence = client.storage.persistence
    info = SessionInfo(name="observer", hostname="here", pid=os.getpid())
    session_id = await persistence.open_session(info, [], lease=timedelta(seconds=10))
    beat = await persistence.renew(session_id)
    await persistence.close_session(session_id)
    return beat.others
