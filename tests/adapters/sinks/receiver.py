"""A web server for webhooks that a test looks into: small enough to do wrong whatever a real one might."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc

Answer = tuple[int, Mapping[str, str], bytes]


@dataclass(frozen=True)
class Request:
    line: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """`answer` decides what a request gets; `connections` counts how often somebody connected."""

    answer: Callable[[Request], Answer] = lambda _request: (204, {}, b"")
    requests: list[Request] = field(default_factory=list[Request])
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?to=me"

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        data = b""
        async with stream:
            try:
                while True:
                    while b"\r\n\r\n" not in data:
                        data += await stream.receive()
                    head, _, data = data.partition(b"\r\n\r\n")
                    line, *lines = head.decode().split("\r\n")
                    headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
                    length = int(headers["content-length"])
                    while len(data) < length:
                        data += await stream.receive()
                    request, data = Request(line, headers, data[:length]), data[length:]
                    self.requests.append(request)
                    status, extra, body = self.answer(request)
                    sent = {"Content-Length": str(len(body)), **extra}
                    fields = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
                    await stream.send(f"HTTP/1.1 {status} Said\r\n{fields}\r\n".encode() + body)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    receiver = Receiver()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    receiver.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, receiver.serve)
        yield receiver
        tasks.cancel_scope.cancel()
