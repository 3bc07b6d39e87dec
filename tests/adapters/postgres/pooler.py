"""A transaction pooler, as small as one can be: each transaction of a client gets whatever server connection is free.

It speaks enough of the protocol (version 3) to tell messages and the ends of transactions apart, and needs a server
that lets the test's user in without a password.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, Literal, Self, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

T = TypeVar("T")

SSL_REQUEST, CANCEL_REQUEST = 80877103, 80877102
KNOWN_SETTINGS = {"user", "database", "client_encoding", "application_name", "timezone", "datestyle"}
REPORTED = {
    "server_version": "18.0",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
    "TimeZone": "UTC",
}


@dataclass
class Served:
    """A connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass
class Turn:
    """What a client has of the server just now."""

    served: Served | None = None
    unanswered: int = 0
    pumps: set[asyncio.Task[None]] = field(default_factory=set)


class Pooler:
    """`url` leads to the server through here. `order`: which of the free server connections is handed out next."""

    def __init__(self, url: str, *, order: Literal["last", "first"] = "last", refuses_settings: bool = False) -> None:
        self._upstream = urlsplit(url)
        self._order = order
        self._refuses_settings = refuses_settings
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._free: list[Served] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def url(self) -> str:
        parts = self._upstream
        query = {name: values[0] for name, values in parse_qs(parts.query).items() if name not in {"host", "port"}}
        login, at, _ = parts.netloc.rpartition("@")
        return f"{parts.scheme}://{login}{at}127.0.0.1:{self._port}{parts.path}?{urlencode(query)}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for served in self._free:
            served.writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        turn = Turn()
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                if await self._welcome(reader, writer):
                    while (message := await read_message(reader))[:1] != b"X":
                        await self._forward(message, turn, writer)
        finally:
            for pump in turn.pumps:
                pump.cancel()
            if turn.served is not None:
                turn.served.writer.transport.abort()
            writer.transport.abort()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        code, settings = await read_startup(reader)
        if code == SSL_REQUEST:
            writer.write(b"N")
            code, settings = await read_startup(reader)
        if code == CANCEL_REQUEST:
            return False
        unknown = sorted(set(settings) - KNOWN_SETTINGS)
        if self._refuses_settings and unknown:
            fields = f"SFATAL\0C08P01\0Munsupported startup parameter: {unknown[0]}\0\0".encode()
            writer.write(message_of(b"E", fields))
            await writer.drain()
            return False
        writer.write(message_of(b"R", struct.pack("!i", 0)))
        for name, value in REPORTED.items():
            writer.write(message_of(b"S", f"{name}\0{value}\0".encode()))
        writer.write(message_of(b"K", struct.pack("!ii", 1, 1)) + message_of(b"Z", b"I"))
        return True

    async def _forward(self, message: bytes, turn: Turn, writer: asyncio.StreamWriter) -> None:
        if turn.served is None:
            turn.served = await self._take()
            pump = asyncio.get_running_loop().create_task(self._pump(turn, turn.served, writer))
            turn.pumps.add(pump)
            pump.add_done_callback(turn.pumps.discard)
        turn.unanswered += message[:1] in b"SQ"
        turn.served.writer.write(message)

    async def _pump(self, turn: Turn, served: Served, writer: asyncio.StreamWriter) -> None:
        """Pass answers on until the transaction is over; then somebody else may have the connection."""
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = await read_message(served.reader)
                if message[:1] == b"Z":
                    turn.unanswered -= 1
                    if turn.unanswered == 0 and message[5:] == b"I":
                        turn.served = None
                        self._free.append(served)
                        writer.write(message)
                        return
                writer.write(message)

    async def _take(self) -> Served:
        if self._free:
            return self._free.pop(-1 if self._order == "last" else 0)
        parts = self._upstream
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        host, port = parts.hostname or query.get("host", "127.0.0.1"), parts.port or int(query.get("port", "5432"))
        if host.startswith("/"):
            reader, writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            reader, writer = await asyncio.open_connection(host, port)
        user = parts.username or query.get("user", "postgres")
        settings = f"user\0{user}\0database\0{parts.path.lstrip('/')}\0\0".encode()
        writer.write(struct.pack("!ii", 8 + len(settings), 196608) + settings)
        while (await read_message(reader))[:1] != b"Z":
            pass
        return Served(reader, writer)


async def read_message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


async def read_startup(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    words = (await reader.readexactly(length - 8)).decode().split("\0") if length > 8 else []
    return code, dict(zip(words[0:-2:2], words[1:-2:2], strict=False))


def message_of(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", 4 + len(body)) + body
