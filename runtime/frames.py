"""How this process and its child interpreters talk: frames of one JSON header and parts of raw bytes.

A frame is the length of its header (4 bytes, big-endian), the header (a JSON object), and then the parts, whose
lengths the header lists under `parts`. Payloads travel as parts: they are JSON texts already, and wrapping a large text
into another JSON text would cost more than validating it. No pickle, so a frame can make nothing happen but what its
reader does with its `kind`.

Pure data: nothing here reads or writes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

__all__ = ["Frame", "FrameReader", "NotAFrame"]

_LENGTH = struct.Struct(">I")

HEADER_BYTES_MAX = 16 * 1024 * 1024
"""Far above what log lines and lists of outputs need; whoever exceeds it does not speak this protocol."""


class NotAFrame(Exception):
    """The bytes are not of this protocol: somebody else wrote to the descriptor."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: its `kind`, the rest of its header, and its parts."""

    kind: str
    header: Mapping[str, Any]
    parts: Sequence[bytes] = ()

    def encode(self) -> bytes:
        """The bytes to send. Raises: ValueError, TypeError when the header is not JSON."""
        sizes = [len(part) for part in self.parts]
        header = json.dumps({**self.header, "kind": self.kind, "parts": sizes}, allow_nan=False).encode()
        return b"".join((_LENGTH.pack(len(header)), header, *self.parts))


class FrameReader:
    """Puts frames together from bytes as they come."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._header: dict[str, Any] | None = None
        self._missing = _LENGTH.size

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take some bytes and yield the frames that they complete. Raises: NotAFrame."""
        self._buffer += data
        while len(self._buffer) >= self._missing:
            frame = self._advance()
            if frame is not None:
                yield frame

    def _advance(self) -> Frame | None:
        """Take the next piece out of the buffer, which holds all of it."""
        if self._header is not None:
            frame = _frame_of(self._header, self._take(self._missing))
            self._header, self._missing = None, _LENGTH.size
            return frame
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > HEADER_BYTES_MAX:
            raise NotAFrame(f"a header of {length} bytes was announced")
        if len(self._buffer) < _LENGTH.size + length:
            self._missing = _LENGTH.size + length
            return None
        self._header = _parsed(self._take(_LENGTH.size + length)[_LENGTH.size :])
        self._missing = sum(self._header["parts"])
        return None

    def _take(self, size: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except ValueError as error:
        raise NotAFrame(f"a header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise NotAFrame("a header is not an object")
    found = cast("dict[str, Any]", header)
    sizes = found.get("parts")
    listed = isinstance(sizes, list) and all(type(size) is int and size >= 0 for size in cast("list[object]", sizes))
    if not listed or not isinstance(found.get("kind"), str):
        raise NotAFrame("a header has no kind, or does not list the sizes of its parts")
    return found


def _frame_of(header: dict[str, Any], data: bytes) -> Frame:
    sizes, kind = header.pop("parts"), header.pop("kind")
    parts: list[bytes] = []
    start = 0
    for size in sizes:
        parts.append(data[start : start + size])
        start += size
    return Frame(kind, header, parts)
