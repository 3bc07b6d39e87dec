"""Every event sink of ours keeps the promises that `adapters.conformance` holds those of others to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, get_args
from uuid import uuid4

import nats
import pytest

from adapters.conformance import EVENT_SINK_CHECKS, Arrived, EventSinkCheck
from adapters.conformance.event_sinks import one_of_each
from adapters.sinks import JetStreamSink, LogSink, WebhookSink, jetstream, webhook
from kernel import Event, PluginRunner, plugin
from kernel.events import EventType
from kernel.ports.sinks import EventSink
from runtime.testing import CollectingEventSink
from tests.adapters.sinks.nats_server import SERVER, nats_server
from tests.adapters.sinks.receiver import receiving

pytestmark = pytest.mark.anyio

LIVE_ONLY = {"stage.progress", "log"}
each_check = pytest.mark.parametrize("check", EVENT_SINK_CHECKS, ids=lambda check: check.__name__)


def test_there_is_one_event_of_every_type_that_sinks_are_given() -> None:
    assert {event.type for event in one_of_each("r")} == set(get_args(EventType)) - LIVE_ONLY


@pytest.fixture(params=["collecting", "plugin", "log", "webhook"])
async def served(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[tuple[EventSink, Arrived]]:
    came: list[tuple[str, int]] = []

    async def arrived() -> Sequence[tuple[str, int]]:
        return came

    match request.param:
        case "collecting":
            collecting = CollectingEventSink()

            async def collected() -> Sequence[tuple[str, int]]:
                return [(event.run_id, event.seq) for event in collecting.events]

            yield collecting, collected
        case "plugin":

            @plugin("told", on=[event.type for event in one_of_each("r")])
            async def told(event: Event) -> None:
                came.append((event.run_id, event.seq))

            yield PluginRunner([told]), arrived
        case "log":
            yield LogSink(Lines(came)), arrived  # type: ignore[arg-type]
        case _:
            async with receiving() as receiver:

                async def received() -> Sequence[tuple[str, int]]:
                    return [(request.json["run_id"], request.json["seq"]) for request in receiver.requests]

                opened = webhook(receiver.url, secret="sixteen or more characters", allow=("127.0.0.0/8",)).open()
                assert isinstance(opened, WebhookSink)
                async with opened as sink:
                    yield sink, received


class Lines:
    """Stands where a logger does."""

    def __init__(self, came: list[tuple[str, int]]) -> None:
        self._came = came

    def info(self, _event: str, /, *, run_id: str, seq: int, **_fields: Any) -> None:
        self._came.append((run_id, seq))

    warning = info


@each_check
async def test_the_sink_keeps_its_promises(served: tuple[EventSink, Arrived], check: EventSinkCheck) -> None:
    await check(*served)


@pytest.fixture(scope="module")
def nats_url(tmp_path_factory: pytest.TempPathFactory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server.url


@pytest.mark.skipif(SERVER is None, reason="there is no nats-server here (Debian: apt install nats-server)")
@pytest.mark.processes
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@each_check
async def test_a_stream_of_nats_keeps_its_promises(nats_url: str, check: EventSinkCheck) -> None:
    name = uuid4().hex[:12]

    async def stored() -> Sequence[tuple[str, int]]:
        client = await nats.connect(nats_url)
        try:
            stream = client.jetstream()
            count = (await stream.stream_info(name)).state.messages
            messages = await (await stream.pull_subscribe(f"{name}.>", stream=name)).fetch(count, timeout=5)
        finally:
            await client.close()
        ids = [(message.headers or {})["Nats-Msg-Id"].rpartition(":") for message in messages]
        return [(run_id, int(seq)) for run_id, _, seq in ids]

    opened = jetstream(nats_url, stream=name, subject=name).open()
    assert isinstance(opened, JetStreamSink)
    async with opened as sink:
        await check(sink, stored)
