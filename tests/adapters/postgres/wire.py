"""What lies between a client and its server, in a thread of its own: it can lose answers, break, and be repaired."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from threading import Thread
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

T = TypeVar("T")


class Wire:
    """`url` leads to the server through here. Every method has taken effect when it returns."""

    def __init__(self, url: str) -> None:
        self._upstream = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering = True
        self._port = 0
        self.bytes_sent = 0

    @property
    def url(self) -> str:
        parts = self._upstream
        query = {name: values[0] for name, values in parse_qs(parts.query).items() if name not in {"host", "port"}}
        login, at, _ = parts.netloc.rpartition("@")
        return f"{parts.scheme}://{login}{at}127.0.0.1:{self._port}{parts.path}?{urlencode(query)}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.repair()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lose_answers(self) -> None:
        """From now on what the server says does not arrive; what is sent to it does."""
        self._answering = False

    def cut(self) -> None:
        """Break every connection; new ones work."""
        self._do(self._cut())
        self._answering = True

    def find_answers(self) -> None:
        """What the server says arrives again, on connections that are made from now on or have missed nothing."""
        self._answering = True

    def refuse_new(self) -> None:
        """Take no new connections; those that are there go on."""
        self._do(self._refuse())

    def refuse(self) -> None:
        """Break every connection and take no new ones."""
        self.refuse_new()
        self._do(self._cut())

    def repair(self) -> None:
        """Take connections again."""
        self._answering = True
        self._do(self._listen())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there, back = await self._connect()
        self._writers |= {writer, back}
        await asyncio.gather(self._pass_on(reader, back, asked=True), self._pass_on(there, writer, asked=False))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = self._upstream
        query = parse_qs(parts.query)
        host = parts.hostname or query.get("host", ["127.0.0.1"])[0]
        port = parts.port or int(query.get("port", ["5432"])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, asked: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if asked:
                    self.bytes_sent += len(data)
                if asked or self._answering:
                    target.write(data)
                    await target.drain()
        target.transport.abort()
