"""What Postgres is told and what it tells us: creating its data, its settings, its socket, its pid file.

Runs its programs to the end (initdb) or prepares their command line (postgres); it does not know who uses the server
or when it is to stop.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from adapters.embedded_postgres.accounts import can_reach, run_as
from adapters.embedded_postgres.deadline import Deadline
from adapters.embedded_postgres.directory import NEW_DATA, Home
from adapters.embedded_postgres.errors import (
    DataDirectoryForeign,
    DataDirectoryInUse,
    NoServerAccount,
    ServerNotStarted,
    SocketPathTooLong,
    WrongServerVersion,
    start_failure,
)
from adapters.embedded_postgres.installation import MAJOR, Installation

ROLE = "leasehold"

# Part of the socket's file name; nothing listens on the network.
_PORT = 5432
_SOCKET_NAME = f".s.PGSQL.{_PORT}"
# sockaddr_un has room for 108 bytes on Linux and 104 on macOS, of which the last is NUL.
SOCKET_PATH_BYTES_MAX = 103

# Decided anew at every start, so that an upgrade reaches data that exists. What is not here may be tuned in
# postgresql.conf or by ALTER SYSTEM.
_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    # Authentication is `trust`: who can open the socket is in. The directory around it is 0700 already; this is the
    # second lock on the same door.
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "TimeZone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    # A line every few minutes about a database that is well would be most of the log.
    "log_checkpoints": "off",
    "cluster_name": "leasehold",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PidFile:
    """What the server says of itself in `postmaster.pid`."""

    pid: int
    socket_dir: Path | None
    ready: bool


def url_of(socket_dir: Path, database: str) -> str:
    """Return a DSN for asyncpg and libpq; the port is named so that a PGPORT of the environment does not count."""
    query = urlencode({"host": str(socket_dir), "port": _PORT, "user": ROLE}, quote_via=quote, safe="/")
    return f"postgresql:///{database}?{query}"


def server_command(installation: Installation, home: Home, socket_dir: Path) -> list[str]:
    """Return the command line of the server."""
    settings = _SETTINGS | {"unix_socket_directories": str(socket_dir)}
    if installation.has_extension("pg_stat_statements"):
        settings["shared_preload_libraries"] = "pg_stat_statements"
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(installation.program("postgres")), "-D", str(home.data), *options]


def create_data_if_absent(home: Home, installation: Installation, *, lock: int, deadline: Deadline) -> None:
    """Run initdb unless there are data that we can use.

    All or nothing: it works in a directory of another name, which is renamed when it is complete and on disk. `lock`
    is inherited by initdb, so that nobody mistakes an orphaned initdb for none.

    Raises:
        WrongServerVersion, DataDirectoryForeign: there are data that we cannot use.
        NoServerAccount, DiskFull, ServerNotStarted: initdb failed.
    """
    if _check_data(home):
        return
    account = home.account
    if account.name is None:
        raise NoServerAccount(home.path, reason=f"user id {account.uid} has no entry in the user database (passwd)")
    directory = home.open_directory()
    try:
        with suppress(FileNotFoundError):
            shutil.rmtree(NEW_DATA, dir_fd=directory)
        os.mkdir(NEW_DATA, mode=0o700, dir_fd=directory)
        if account.is_other:
            os.chown(NEW_DATA, account.uid, account.gid, dir_fd=directory, follow_symlinks=False)
        _run_initdb(home, installation, lock=lock, deadline=deadline)
        with suppress(FileNotFoundError):
            home.data.rmdir()  # `_check_data` let it pass, so it is empty
        os.rename(NEW_DATA, home.data.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)


def _run_initdb(home: Home, installation: Installation, *, lock: int, deadline: Deadline) -> None:
    # Postgres' own C.UTF-8 sorts the same on every machine, whatever locales are installed. The data are flushed to
    # disk at the end, as initdb does by itself: everything that is committed later rests on them.
    command = [str(installation.program("initdb")), "--pgdata", str(home.path / NEW_DATA), "--username", ROLE]
    command += ["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--no-instructions"]
    command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    try:
        ended = run_as(home.account, command, timeout_s=max(deadline.left_s(), 0.1), pass_fds=(lock,))
    except subprocess.TimeoutExpired as error:
        raise ServerNotStarted(
            home.path,
            reason=f"initdb did not end within {deadline.span_s:g} s",
            log_path=home.log,
            log_tail="",
        ) from error
    if ended.returncode:
        raise start_failure(
            home.path, reason=f"initdb failed (status {ended.returncode})", log_path=home.log, said=ended.stdout
        )


def _check_data(home: Home) -> bool:
    """Whether there are data to start with; False when there are none, an error when we must not touch them."""
    try:
        found = home.data.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != home.account.uid:
        raise DataDirectoryForeign(
            home.path, reason=f'"{home.data.name}" in it is not a directory of user "{home.account}"'
        )
    if (version := _read_if_there(home.data / "PG_VERSION")) is not None:
        if version.strip() != MAJOR:
            raise WrongServerVersion(home.path, found=version.strip(), expected=MAJOR)
        return True
    if any(home.data.iterdir()):
        raise DataDirectoryForeign(home.path, reason=f'"{home.data.name}" in it has files, but not those of a Postgres')
    return False


def read_pid_file(home: Home) -> PidFile | None:
    """Return what the server last said of itself, None if it says nothing (yet); it may have died since."""
    lines = (_read_if_there(home.data / "postmaster.pid") or "").splitlines()
    # Line by line: pid, data directory, start time, port, socket directory, address, shared memory, status. The server
    # writes them as it comes to know them; a dead one leaves them all.
    if not lines or not lines[0].strip().isdigit():
        return None
    return PidFile(
        pid=int(lines[0]),
        socket_dir=Path(lines[4]) if len(lines) > 4 and lines[4] else None,
        ready=len(lines) > 7 and lines[7].strip() == "ready",
    )


def refuse_foreign_server(home: Home) -> None:
    """Make sure that a pid file which no server of ours stands for is a dead one's.

    Raises:
        DataDirectoryInUse: somebody runs another Postgres on the data.
    """
    found = read_pid_file(home)
    if found is None:
        return
    # The number alone says nothing, it may have been given to another process since. Postgres works in its data
    # directory, which /proc shows; elsewhere its socket has to answer for it.
    with suppress(OSError):
        if Path(f"/proc/{found.pid}/cwd").samefile(home.data):
            raise DataDirectoryInUse(home.path, pid=found.pid)
    if found.socket_dir is not None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(found.socket_dir / _SOCKET_NAME))
            raise DataDirectoryInUse(home.path, pid=found.pid)


def choose_socket_dir(home: Home, parents: Sequence[Path] | None = None) -> Path:
    """Return the data directory, or, if its path will not do, a new private one in the first of `parents` that will.

    By default the parents are the temporary directory and /tmp, since TMPDIR may be long as well.

    Raises:
        SocketPathTooLong: none of them will do.
    """
    if _fits(home.data):
        return home.data
    if parents is None:
        parents = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108 (mkdtemp makes it private and new)
    for parent in parents:
        if _fits(parent / "leasehold-12345678") and can_reach(home.account, parent, data_dir=home.path):
            with suppress(OSError):
                made = Path(tempfile.mkdtemp(prefix="leasehold-", dir=parent))
                if home.account.is_other:
                    os.chown(made, home.account.uid, home.account.gid, follow_symlinks=False)
                return made
    raise SocketPathTooLong(home.path, tried=(home.data, *parents), limit_bytes=SOCKET_PATH_BYTES_MAX)


def is_private(socket_dir: Path, home: Home) -> bool:
    """Whether the server's user alone (and root) can have made what is in there.

    Asked before every connection: a directory in /tmp may be cleaned away and made again by somebody else.
    """
    try:
        found = socket_dir.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == home.account.uid and not found.st_mode & 0o077


def _fits(socket_dir: Path) -> bool:
    path = str(socket_dir / _SOCKET_NAME)
    # The path also goes through a DSN and through Postgres' list of directories, where a comma separates, a quote
    # quotes, and bytes that are not text do not survive.
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX and path.isprintable() and not set(path) & set(",\"'\\")


def _read_if_there(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, 10_000).decode(errors="replace")
    finally:
        os.close(descriptor)
