"""Events in a JetStream of NATS, against a real server that the tests start themselves."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import nats
import pytest
from nats.aio.msg import Msg

from adapters.sinks import JetStreamSink, jetstream
from kernel import Event, InvalidCommand
from kernel.events import RunCancelled
from tests.adapters.sinks.nats_server import SERVER, NatsServer, nats_server

pytestmark = [pytest.mark.anyio, pytest.mark.processes]
needs_server = pytest.mark.skipif(
    SERVER is None, reason="there is no nats-server here (Debian: apt install nats-server)"
)
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])

RUN = "019a0000-0000-7000-8000-000000000000"


def an_event(seq: int = 3) -> Event:
    return RunCancelled(run_id=RUN, seq=seq, at=datetime(2025, 1, 1, tzinfo=UTC), reason="test")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[JetStreamSink]:
    made = jetstream(url, **options).open()
    assert isinstance(made, JetStreamSink)
    async with made as sink:
        yield sink


def a_stream() -> dict[str, str]:
    """A stream of this test's own."""
    name = uuid4().hex[:12]
    return {"stream": name, "subject": f"test.{name}"}


async def stored(url: str, stream: str, subject: str, count: int) -> list[Msg]:
    client = await nats.connect(url)
    try:
        consumer = await client.jetstream().pull_subscribe(f"{subject}.>", stream=stream)
        return await consumer.fetch(count, timeout=5)
    finally:
        await client.close()


@needs_server
@on_asyncio
async def test_an_event_is_a_message_of_the_stream_which_is_made_when_it_is_not_there(server: NatsServer) -> None:
    where = a_stream()
    async with opened(server.url, **where) as sink:
        await sink.publish(an_event())

    (message,) = await stored(server.url, **where, count=1)
    assert message.subject == f"{where['subject']}.{RUN}.run.cancelled"
    assert json.loads(message.data)["reason"] == "test"
    assert message.headers is not None
    assert (message.headers["Nats-Msg-Id"], message.headers["Leasehold-Event"]) == (f"{RUN}:3", "run.cancelled")


@needs_server
@on_asyncio
async def test_an_event_that_comes_again_is_stored_once(server: NatsServer) -> None:
    where = a_stream()
    for _ in range(2):
        async with opened(server.url, **where) as sink:
            for seq in (1, 2):
                await sink.publish(an_event(seq))

    client = await nats.connect(server.url)
    info = await client.jetstream().stream_info(where["stream"])
    await client.close()
    assert info.state.messages == 2


@needs_server
@on_asyncio
async def test_a_stream_that_is_not_to_be_made_must_be_there(server: NatsServer) -> None:
    async with opened(server.url, **a_stream(), create=False) as sink:
        with pytest.raises(nats.js.errors.NotFoundError):
            await sink.publish(an_event())


@needs_server
@on_asyncio
async def test_a_server_that_was_away_is_found_again(tmp_path: Path) -> None:
    where = a_stream()
    with nats_server(tmp_path) as server:
        async with opened(server.url, **where, timeout=timedelta(seconds=1)) as sink:
            await sink.publish(an_event(1))
            server.stop()
            with pytest.raises((TimeoutError, nats.errors.Error)):
                await sink.publish(an_event(2))
            server.start()
            await until_published(sink, an_event(2))

        messages = await stored(server.url, **where, count=2)
        assert [json.loads(message.data)["seq"] for message in messages] == [1, 2]


async def until_published(sink: JetStreamSink, event: Event) -> None:
    with anyio.fail_after(30):
        while True:
            try:
                return await sink.publish(event)
            except (TimeoutError, nats.errors.Error):
                await anyio.sleep(0.05)


@needs_server
@on_asyncio
async def test_many_that_come_first_at_once_make_one_connection(server: NatsServer) -> None:
    where = a_stream()
    async with opened(server.url, **where) as sink, anyio.create_task_group() as tasks:
        for seq in range(1, 11):
            tasks.start_soon(sink.publish, an_event(seq))

    assert len(await stored(server.url, **where, count=10)) == 10


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_it_says_what_to_do(anyio_backend: str) -> None:
    with pytest.raises(InvalidCommand, match=r"speaks asyncio.*LEASEHOLD_EVENT_LOOP=asyncio"):
        async with opened("nats://localhost"):
            pass


@on_asyncio
async def test_without_its_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nats", None)

    with pytest.raises(InvalidCommand, match=r"pip install 'leasehold\[nats\]'"):
        async with opened("nats://localhost"):
            pass


@pytest.mark.parametrize(
    "arguments, field",
    [
        ({"subject": "a b"}, "subject"),
        ({"subject": "a.*"}, "subject"),
        ({"subject": ""}, "subject"),
        ({"stream": "a.b"}, "stream"),
        ({"stream": ""}, "stream"),
    ],
)
def test_names_that_cannot_be_used_are_refused(arguments: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        jetstream("nats://localhost", **arguments)

    assert refused.value.field == field
