"""Blobs as files: for one machine, or several that share a file system.

A key becomes a path that can neither leave the folder nor meet another key's. Each part of the key is escaped to
lower-case letters, digits and a few signs, since not every file system tells upper from lower case, and gets a suffix
that says what it is: `.dir` for the parts before the last one, `.blob` for the last, so that the keys `a` and `a/b`
live side by side. A part too long for a file name goes on in the next folder, after one that ends in `.part`.

A blob is written to a temporary file, synced, and renamed into place: whoever reads sees all of it or nothing, and
what `put` has acknowledged survives a power cut. Every call runs in a worker thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote
from uuid import uuid4

from anyio import to_thread

from adapters.blob_keys import checked_key
from kernel.errors import BlobNotFound, PayloadRefused, Unavailable

__all__ = ["FilesystemBlobStore"]

T = TypeVar("T")

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")
_NAME_MAX = 240  # of the 255 bytes that file systems give a name; the rest is for the suffix
_INCOMING = "incoming"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class FilesystemBlobStore:
    """A `BlobStore` in one folder, which is made with the first blob. Several processes may use it at once."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder).absolute()

    async def check(self) -> None:
        """Find out whether blobs can be stored here; the folder is made if need be. Raises: Unavailable."""
        await self._in_thread(partial(_try_to_write, self._folder))

    async def put(self, key: str, data: bytes, /) -> None:
        path = _path_of(self._folder, checked_key(key))
        await self._in_thread(partial(_write, path, bytes(data), self._folder))

    async def get(self, key: str, /) -> bytes:
        path = _find_path(self._folder, key)
        data = None if path is None else await self._in_thread(partial(_read, path))
        if data is None:
            raise BlobNotFound(key)
        return data

    async def has(self, key: str, /) -> bool:
        path = _find_path(self._folder, key)
        return path is not None and await self._in_thread(path.is_file)

    async def delete(self, key: str, /) -> None:
        path = _find_path(self._folder, key)
        if path is not None:
            await self._in_thread(partial(_remove, path, self._folder))

    async def list(self, prefix: str, /) -> Sequence[str]:
        return await self._in_thread(partial(_list, self._folder, prefix))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        with _named_failures(self._folder):
            return await to_thread.run_sync(work)


@contextmanager
def _named_failures(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Unavailable(
                f"The disk that holds the blobs in {folder} is full.",
                field="blobs",
                hint="Free some space and ask again.",
            ) from error
        raise Unavailable(
            f"The blobs in {folder} cannot be used: {error.strerror or error}.",
            field="blobs",
            hint="Check that the folder (LEASEHOLD_BLOB_URL) is there and that this user may write in it.",
        ) from error


# -- keys and paths -------------------------------------------------------------------------------------------------


def _path_of(folder: Path, key: str) -> Path:
    *parts, last = key.split("/")
    return folder.joinpath(*_folder_names(parts), *_names(last, ".blob"))


def _find_path(folder: Path, key: str) -> Path | None:
    """Where the key's blob would be; None for a key that no blob can have."""
    try:
        return _path_of(folder, checked_key(key))
    except PayloadRefused:
        return None


def _folder_names(parts: Sequence[str]) -> list[str]:
    return [name for part in parts for name in _names(part, ".dir")]


def _names(part: str, suffix: str) -> list[str]:
    escaped = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in part.encode())
    pieces = [escaped[at : at + _NAME_MAX] for at in range(0, len(escaped), _NAME_MAX)]
    return [*(piece + ".part" for piece in pieces[:-1]), pieces[-1] + suffix]


# -- in a worker thread -----------------------------------------------------------------------------------------------


def _try_to_write(folder: Path) -> None:
    incoming = folder / _INCOMING
    _make(incoming)
    temporary = incoming / uuid4().hex
    temporary.open("xb").close()
    temporary.unlink()


def _write(path: Path, data: bytes, folder: Path) -> None:
    incoming = folder / _INCOMING
    _make(incoming)
    temporary = incoming / uuid4().hex
    try:
        with temporary.open("xb", buffering=0) as file:
            unwritten = memoryview(data)
            while unwritten:
                unwritten = unwritten[file.write(unwritten) :]
            os.fsync(file.fileno())
        _move(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _move(temporary: Path, path: Path) -> None:
    """Rename into place. Whoever deletes the last blob of a folder deletes the folder too, hence the second tries."""
    for tries_left in reversed(range(20)):
        try:
            _make(path.parent)
            temporary.replace(path)
            return _sync(path.parent)
        except FileNotFoundError:
            if not tries_left:
                raise
    return None


def _make(folder: Path) -> None:
    """Make the folder and those above it, each of them known to the disk before something is put into it."""
    if folder.is_dir():
        return
    _make(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _remove(path: Path, folder: Path) -> None:
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == folder:
            return
        try:
            parent.rmdir()
        except OSError:  # not empty, or gone already
            return


def _list(folder: Path, prefix: str) -> Sequence[str]:
    above, slash, _ = prefix.rpartition("/")
    if slash and _find_path(folder, above) is None:
        return ()
    start = folder.joinpath(*_folder_names(above.split("/"))) if slash else folder
    return sorted(key for key in _keys_in(start, above + slash) if key.startswith(prefix))


def _keys_in(folder: Path, above: str, begun: str = "") -> Iterator[str]:
    """The keys of the blobs below; `begun` is the escaped beginning of a part that was too long for one name."""
    try:
        entries = list(folder.iterdir())
    except FileNotFoundError:
        return
    for entry in entries:
        escaped, _, kind = entry.name.rpartition(".")
        match kind:
            case "blob":
                yield above + unquote(begun + escaped)
            case "dir":
                yield from _keys_in(entry, f"{above}{unquote(begun + escaped)}/")
            case "part":
                yield from _keys_in(entry, above, begun + escaped)
            case _:
                pass  # files on their way in, and whatever else somebody put here
