"""What can keep an embedded server from running, one class per thing that a person would do about it.

All of them are `Unavailable`: no command was wrong, the database is not there. Each names the directory and the way
out. Separate from the code that raises them, because callers catch by class and read `data_dir` and the other fields.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from kernel.errors import NoDatabase, Unavailable

ELSEWHERE = "choose another directory (--data-dir) or a database of your own (LEASEHOLD_DATABASE_URL)"

# What the C library says for ENOSPC and EDQUOT. Postgres runs with LC_ALL=C, so its output has these words.
_FULL_DISK_WORDS = ("No space left on device", "Disk quota exceeded")


class EmbeddedNotInstalled(NoDatabase):
    """The wheel with the Postgres binaries is missing, or has none of the version that we run."""

    def __init__(self, *, looked_for: str) -> None:
        self.looked_for = looked_for
        super().__init__(f"The embedded Postgres is not installed ({looked_for} not found).")


class EmbeddedPostgresError(Unavailable):
    """Root of what goes wrong with an installed embedded server; `data_dir` is the directory it was to live in."""

    def __init__(self, message: str, *, data_dir: Path, hint: str) -> None:
        self.data_dir = data_dir
        super().__init__(message, field="data_dir", hint=hint)


class DataDirectoryLocked(EmbeddedPostgresError):
    """Another process has been starting or stopping the server for longer than we were allowed to wait."""

    def __init__(self, data_dir: Path, *, pid: int | None, waited_s: float) -> None:
        self.pid = pid
        self.waited_s = waited_s
        who = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{data_dir} is locked: {who} has been starting or stopping its Postgres for {waited_s:.0f} s.",
            data_dir=data_dir,
            hint=f"Wait for it, or end it{'' if pid is None else f' (kill {pid})'}; the lock goes with the process.",
        )


class DataDirectoryForeign(EmbeddedPostgresError):
    """The directory is somebody else's: of another user (`owner`), or full of files that are not ours."""

    def __init__(self, data_dir: Path, *, reason: str, owner: str | None = None) -> None:
        self.reason = reason
        self.owner = owner
        run_as = f'Run as user "{owner}", ' if owner is not None else "Name an empty directory, "
        super().__init__(
            f"{data_dir} cannot hold our data: {reason}.", data_dir=data_dir, hint=f"{run_as}or {ELSEWHERE}."
        )


class DataDirectoryInUse(EmbeddedPostgresError):
    """A Postgres that we did not start runs on this data."""

    def __init__(self, data_dir: Path, *, pid: int) -> None:
        self.pid = pid
        super().__init__(
            f"Another Postgres server (process {pid}), not started by Leasehold, runs on the data in {data_dir}.",
            data_dir=data_dir,
            hint=f"Stop it (kill -INT {pid}), or {ELSEWHERE}.",
        )


class DataDirectoryUnusable(EmbeddedPostgresError):
    """The operating system refuses something that we need to do in the directory."""

    def __init__(self, data_dir: Path, *, reason: str, hint: str | None = None) -> None:
        self.reason = reason
        super().__init__(
            f"{data_dir} cannot be used: {reason}.",
            data_dir=data_dir,
            hint=hint or f"Make it writable for this user, or {ELSEWHERE}.",
        )


class DiskFull(EmbeddedPostgresError):
    """No space (or quota) is left where the data lives; `detail` is what was being written."""

    def __init__(self, data_dir: Path, *, detail: str) -> None:
        self.detail = detail
        super().__init__(
            f"The disk of {data_dir} is full: {detail}.",
            data_dir=data_dir,
            hint=f"Free some space (a new database takes about 50 MB), or {ELSEWHERE}.",
        )


class WrongServerVersion(EmbeddedPostgresError):
    """The data was written by another major version of Postgres, which this one cannot read."""

    def __init__(self, data_dir: Path, *, found: str, expected: str) -> None:
        self.found = found
        self.expected = expected
        super().__init__(
            f"The data in {data_dir} was written by PostgreSQL {found}; the embedded server is PostgreSQL {expected}.",
            data_dir=data_dir,
            hint=f"Use the release of Leasehold that wrote it, move the directory away to start anew, or {ELSEWHERE}.",
        )


class SocketPathTooLong(EmbeddedPostgresError):
    """Neither the data directory nor a temporary directory has a path short enough for a Unix socket (in bytes)."""

    def __init__(self, data_dir: Path, *, tried: tuple[Path, ...], limit_bytes: int) -> None:
        self.tried = tried
        self.limit_bytes = limit_bytes
        super().__init__(
            f"No place for the server's socket: its path may have {limit_bytes} bytes, "
            f"and none of these can be used: {', '.join(map(str, tried))}.",
            data_dir=data_dir,
            hint="Choose a shorter directory (--data-dir), or set TMPDIR to a short one that exists and is writable.",
        )


class NoServerAccount(EmbeddedPostgresError):
    """There is no operating system user to run the server as: Postgres refuses root and users without a name."""

    def __init__(self, data_dir: Path, *, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"Postgres cannot be started for {data_dir}: {reason}.",
            data_dir=data_dir,
            hint='Run as an ordinary user, or create a system user "leasehold" (useradd --system leasehold), '
            "or name a database of your own (LEASEHOLD_DATABASE_URL).",
        )


class ServerNotStarted(EmbeddedPostgresError):
    """Postgres ended, or was not ready in time; `log_tail` has the last lines of what it said."""

    def __init__(self, data_dir: Path, *, reason: str, log_path: Path, log_tail: str) -> None:
        self.reason = reason
        self.log_path = log_path
        self.log_tail = log_tail
        said = f" It said:\n{log_tail}\n" if log_tail else ""
        super().__init__(
            f"The embedded Postgres in {data_dir} did not start: {reason}.{said}",
            data_dir=data_dir,
            hint=f"Its log is {log_path}.",
        )


class ServerSilent(EmbeddedPostgresError):
    """The server lives, as process `pid`, and does not answer: it was stopped (SIGSTOP), or its disk is stuck."""

    def __init__(self, data_dir: Path, *, pid: int, waited_s: float, log_path: Path) -> None:
        self.pid = pid
        self.waited_s = waited_s
        super().__init__(
            f"The embedded Postgres in {data_dir} does not answer: process {pid} has said nothing for {waited_s:g} s.",
            data_dir=data_dir,
            hint=f"If it was paused, let it go on (kill -CONT {pid}); else see its log, {log_path}.",
        )


class DataDirectoryGone(EmbeddedPostgresError):
    """The directory was deleted, moved or replaced while its server was in use."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(
            f"The data directory {data_dir} is gone: it was deleted, moved or replaced while in use.",
            data_dir=data_dir,
            hint="Put it back, if you have it, or start anew: the next start makes an empty one.",
        )


def start_failure(data_dir: Path, *, reason: str, log_path: Path, said: str) -> EmbeddedPostgresError:
    """Name the failure of a Postgres program by what it printed: a full disk is the one that has a name."""
    lines = [line for line in said.splitlines() if line.strip()]
    for line in reversed(lines):
        if any(words in line for words in _FULL_DISK_WORDS):
            return DiskFull(data_dir, detail=line.strip().rstrip("."))
    return ServerNotStarted(data_dir, reason=reason, log_path=log_path, log_tail="\n".join(lines[-20:]))


@contextmanager
def os_errors_named(data_dir: Path) -> Generator[None]:
    """Turn what the operating system refuses, or does not finish, into one of ours."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(data_dir, detail=what) from error
        raise DataDirectoryUnusable(data_dir, reason=what) from error
    except subprocess.TimeoutExpired as error:
        program = str(error.cmd[0])
        raise DataDirectoryUnusable(data_dir, reason=f"{program} did not end within {error.timeout:g} s") from error
