"""A wire that understands what a client sends to Postgres: it counts statements and round trips.

Statements are known by the files of the adapter; what is none of them goes by its own text. A connection is known by
its application name, so what is counted says for which purpose it was sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import adapters.postgres
from adapters.postgres.statements import DEFAULT_SCHEMA, Schema, statement
from tests.adapters.postgres.wire import Wire

SSL_REQUEST = 80877103
# Once per connection and type the driver asks what a type is, and once per connection a statement is prepared.
INTROSPECTION = ("typeinfo_tree(", "set_config('jit'")
FILES = (file.stem for file in (Path(adapters.postgres.__file__).parent / "sql").glob("*.sql"))
NAMES = {statement(name, Schema(DEFAULT_SCHEMA)): name for name in FILES if not name.endswith(".fragment")}


class CountedWire(Wire):
    """`sent` counts statements by name, `round_trips` by the connection's purpose, since `begin`.

    What a connection does only the first time is not counted.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sent: Counter[str] = Counter()
        self.round_trips: Counter[str] = Counter()

    @property
    def url(self) -> str:
        # What is encrypted cannot be counted. (The wire's own URL always has a query, if an empty one.)
        return f"{super().url}&sslmode=disable".replace("?&", "?")

    def begin(self) -> None:
        self.sent.clear()
        self.round_trips.clear()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, asked: bool) -> None:
        if asked:
            source = _Overheard(source, _Listener(self))  # type: ignore[assignment]  # reads like one
        await super()._pass_on(source, target, asked=asked)


class _Overheard:
    def __init__(self, source: asyncio.StreamReader, listener: _Listener) -> None:
        self._source = source
        self._listener = listener

    async def read(self, count: int) -> bytes:
        data = await self._source.read(count)
        self._listener.hear(data)
        return data


class _Listener:
    """Takes apart what one client sends, after the chapter on message formats of Postgres' manual."""

    def __init__(self, counts: CountedWire) -> None:
        self._counts = counts
        self._buffer = bytearray()
        self._purpose = ""
        self._prepared: dict[bytes, str] = {}
        self._counting = False

    def hear(self, data: bytes) -> None:
        self._buffer += data
        while True:
            # Only the first message, which names the client, has no letter before its length.
            letter = 1 if self._purpose else 0
            if len(self._buffer) < letter + 4:
                return
            end = letter + int.from_bytes(self._buffer[letter : letter + 4])
            if len(self._buffer) < end:
                return
            kind, content = bytes(self._buffer[:letter]), bytes(self._buffer[letter + 4 : end])
            del self._buffer[:end]
            self._note(kind, content)

    def _note(self, kind: bytes, content: bytes) -> None:
        match kind:
            case b"":
                words = content[4:].split(b"\0")
                if b"application_name" in words:
                    self._purpose = words[words.index(b"application_name") + 1].decode().removeprefix("leasehold ")
                elif int.from_bytes(content[:4]) != SSL_REQUEST:
                    self._purpose = "unnamed"
            case b"P":
                name, sql, _ = content.split(b"\0", 2)
                self._prepared[name] = sql.decode()
                self._counting = False
            case b"B":
                _, name, _ = content.split(b"\0", 2)
                self._count(self._prepared[name])
            case b"Q":
                self._count(content.rstrip(b"\0").decode())
                self._count_round_trip()
            case b"S":
                self._count_round_trip()
            case _:
                pass

    def _count(self, sql: str) -> None:
        self._counting = not any(sign in sql for sign in INTROSPECTION)
        if self._counting:
            self._counts.sent[NAMES.get(sql.strip(), sql.split(" ", 1)[0])] += 1

    def _count_round_trip(self) -> None:
        if self._counting:
            self._counts.round_trips[self._purpose] += 1
