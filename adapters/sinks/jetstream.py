"""NATS JetStream: each event becomes a message of a stream, taken when the server has stored it.

Subjects are `<subject>.<run id>.<event type>`, so that a consumer can ask for one run, or for the ends of all
(`leasehold.*.run.completed`). `Nats-Msg-Id` is run and number: within its window the server drops what comes again.

The client speaks asyncio and nothing else. A supervisor on trio cannot open this sink, and says so; another process of
the same app, on asyncio, can serve it, since what a sink is owed is owed to its name.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence
from datetime import timedelta
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from kernel.errors import InvalidCommand
from kernel.events import Event, EventType, event_json, event_types
from kernel.ports.sinks import Sink

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

__all__ = ["JetStreamSink", "jetstream"]

_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_STREAM = re.compile(r"[A-Za-z0-9_-]{1,32}")
CLOSE_S = 2.0


def jetstream(
    servers: str | Sequence[str],
    *,
    stream: str = "LEASEHOLD",
    subject: str = "leasehold",
    create: bool = True,
    name: str = "jetstream",
    events: Collection[EventType] | None = None,
    max_retries: int = 20,
    timeout: timedelta = timedelta(seconds=10),
    at_once: int = 4,
    **options: Any,
) -> Sink:
    """Publish events to a stream, for `App(sinks=[jetstream("nats://localhost:4222")])`; needs asyncio.

    `create` makes the stream when there is none, for all subjects below `subject`, with the server's own limits.
    `options` go to the client's `connect` (user_credentials, tls, …). An event is tried `max_retries` times, for about
    an hour.

    Raises: InvalidCommand, naming the argument that cannot be used.
    """
    if _SUBJECT.fullmatch(subject) is None:
        raise InvalidCommand(f'"{subject}" cannot begin a subject.', field="subject", hint='Write it as "acme.events".')
    if _STREAM.fullmatch(stream) is None:
        raise InvalidCommand(
            f'"{stream}" cannot be the name of a stream.', field="stream", hint="Use letters, digits, - and _."
        )
    return Sink(
        name=name,
        open=lambda: JetStreamSink(
            [servers] if isinstance(servers, str) else list(servers),
            stream=stream,
            subject=subject,
            create=create,
            timeout=timeout,
            options=options,
        ),
        events=None if events is None else event_types(f'Sink "{name}"', events, field="events"),
        max_retries=max_retries,
        timeout=timeout,
        at_once=at_once,
    )


class JetStreamSink:
    """`EventSink` for one stream; an asynchronous context manager. Connects when the first event comes."""

    def __init__(
        self,
        servers: Sequence[str],
        *,
        stream: str,
        subject: str,
        create: bool,
        timeout: timedelta,
        options: dict[str, Any],
    ) -> None:
        self._servers = list(servers)
        self._stream = stream
        self._subject = subject
        self._create = create
        self._timeout_s = timeout.total_seconds()
        self._options = options
        self._connecting = anyio.Lock()
        self._client: Client | None = None
        self._context: JetStreamContext | None = None

    async def __aenter__(self) -> Self:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise InvalidCommand(
                "The client of JetStream speaks asyncio, and this is another event loop.",
                field="sinks",
                hint="Serve this sink in a process on asyncio (LEASEHOLD_EVENT_LOOP=asyncio).",
            ) from None
        try:
            import_module("nats")
        except ImportError as error:
            raise InvalidCommand(
                "JetStream needs a client that is not installed.",
                field="sinks",
                hint="pip install 'leasehold[nats]'",
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def publish(self, event: Event, /) -> None:
        """Send the event and wait until the server has stored it. Raises: what the client raises."""
        context = self._context
        if context is None or self._client is None or self._client.is_closed:
            context = await self._connected()
        await context.publish(
            f"{self._subject}.{event.run_id}.{event.type}",
            event_json(event),
            timeout=self._timeout_s,
            headers={"Nats-Msg-Id": f"{event.run_id}:{event.seq}", "Leasehold-Event": event.type},
        )

    async def _connected(self) -> JetStreamContext:
        """The stream, connected to by whoever comes first; the next event tries again when that fails."""
        from nats.aio.client import Client

        async with self._connecting:
            if self._context is None or self._client is None or self._client.is_closed:
                await self._leave()
                # Afterwards the client itself connects again, for ever; until then each try is ours.
                self._client = client = Client()
                await client.connect(
                    servers=self._servers,
                    name="leasehold",
                    error_cb=_ignore,
                    connect_timeout=max(1, int(self._timeout_s)),
                    max_reconnect_attempts=-1,
                    **self._options,
                )
                context: JetStreamContext = client.jetstream()  # pyright: ignore[reportUnknownMemberType] - untyped options
                await self._find_stream(context)
                self._context = context
            return self._context

    async def _find_stream(self, context: JetStreamContext) -> None:
        from nats.js.api import StreamConfig
        from nats.js.errors import BadRequestError, NotFoundError

        try:
            await context.stream_info(self._stream)
        except NotFoundError:
            if not self._create:
                raise
            try:
                await context.add_stream(StreamConfig(name=self._stream, subjects=[f"{self._subject}.>"]))  # pyright: ignore[reportUnknownMemberType]
            except BadRequestError:
                # Another process was faster.
                await context.stream_info(self._stream)

    async def _leave(self) -> None:
        client, self._client, self._context = self._client, None, None
        if client is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await client.close()


async def _ignore(_error: Exception) -> None:
    """What goes wrong with the connection is told by the publish that fails for it; the client would log it again."""
