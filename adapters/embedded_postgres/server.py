"""Entering and leaving: the first user of a directory starts its server, the last one sees it stop.

Entering, under the directory's mutex: become a user; if no process of a server lives, create the data if there are
none and start a keeper, which starts the server; wait until the server answers; create the database if it is missing.

Leaving, under the mutex again: stop being a user; if nobody else is one, wait until all processes of the server have
ended. The keeper stops it, not whoever leaves, because a user that was killed cannot. Only if there is no keeper (it
was killed too) does the last one who leaves stop the server itself.

Every step looks at what is there instead of remembering what was done, so that a step that a crash left half done is
done again by whoever comes next.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from adapters.embedded_postgres.cluster import (
    choose_socket_dir,
    create_data_if_absent,
    is_private,
    read_pid_file,
    refuse_foreign_server,
    server_command,
)
from adapters.embedded_postgres.database import SILENCE_S, NoAnswer, prepare_database
from adapters.embedded_postgres.deadline import Deadline, heed_nobody
from adapters.embedded_postgres.directory import LOG, SERVER, USERS, Home, choose_home
from adapters.embedded_postgres.errors import (
    DataDirectoryGone,
    DataDirectoryLocked,
    EmbeddedPostgresError,
    ServerNotStarted,
    ServerSilent,
    os_errors_named,
    start_failure,
)
from adapters.embedded_postgres.installation import Installation, find_installation, reachable_installation
from adapters.embedded_postgres.locks import (
    Locks,
    are_in_place,
    is_free,
    is_gone,
    lock_directory,
    release,
    retake_mutex,
    try_exclusive,
    try_shared,
)

_KEEPER = Path(__file__).with_name("keeper.py")

# How long to wait for the mutex when leaving. Without it we leave all the same: the keeper does not need us.
_LEAVE_MUTEX_S = 10.0
# How long to wait for the server's end; somewhat longer than the keeper's own patience with it.
_STOP_S = 35.0
# If the users' lock can be had for this long while the server lives, there is no keeper waiting for it.
_NO_KEEPER_S = 1.0
# A failed start must not be reported much later than it failed.
_FAILED_START_S = 3.0

_LOG_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A running server: its DSN, where its data are, and one line for the user if that is not where they asked."""

    url: str
    data_dir: Path
    notice: str | None
    home: Home
    locks: Locks

    def find_process(self) -> int | None:
        """Return the process id of the server, another one after a restart; None while there is none.

        Raises:
            DataDirectoryGone: the directory was deleted, moved or replaced. The server stops then, and what others
                start at its path is another one.
        """
        if is_gone(self.home, self.locks):
            raise DataDirectoryGone(self.data_dir)
        found = read_pid_file(self.home)
        return found.pid if found is not None and found.ready else None


@contextmanager
def embedded_postgres(
    data_dir: Path, *, start_timeout_s: float = 60.0, heed: Callable[[], None] = heed_nobody
) -> Generator[EmbeddedServer]:
    """Use the Postgres of a directory; the first user starts it, the last one to leave stops it.

    Blocking: call it in a worker thread; leaving may happen in another thread than entering. Any number of processes,
    and any number of times in one process, may be in at once. Leaving never raises. A user that is killed has left.
    `heed` is called often while entering waits; what it raises ends the attempt, and comes out.

    Raises:
        EmbeddedNotInstalled: the extra is not installed.
        EmbeddedPostgresError: one of its kinds, for what the directory or the server lacks; `start_timeout_s` bounds
            the wait for other processes and for the server together.
    """
    installation = find_installation()
    deadline = Deadline.after(start_timeout_s, heed)
    with os_errors_named(data_dir):
        home = choose_home(data_dir)
        locks = lock_directory(home, deadline)
        try:
            url = _become_user(home, locks, installation, deadline)
        except BaseException as error:
            # Who is interrupted does not want to see the end of the server; the keeper does.
            patience_s = _FAILED_START_S if isinstance(error, Exception) else 0.0
            _stop_being_user(home, locks, Deadline.after(patience_s))
            locks.close()
            raise
        release(locks.mutex)
    try:
        yield EmbeddedServer(url=url, data_dir=home.path, notice=home.notice, home=home, locks=locks)
    finally:
        _leave(home, locks)


def _leave(home: Home, locks: Locks) -> None:
    try:
        # Without the mutex (somebody sits on it) or with a disk that does not even take a pid: leave all the same.
        with suppress(DataDirectoryLocked, OSError):
            retake_mutex(home, locks, Deadline.after(_LEAVE_MUTEX_S))
            _stop_being_user(home, locks, Deadline.after(_STOP_S))
    finally:
        locks.close()


def _become_user(home: Home, locks: Locks, installation: Installation, deadline: Deadline) -> str:
    """Count as a user, make sure that the server answers, and return its DSN; needs the mutex."""
    if not deadline.wait_until(lambda: try_shared(locks.users)):
        raise _not_started(home, reason="the server before it has not ended yet")
    start: _Start | None = None
    try:
        while True:
            if start is None:
                start = _start_if_dead(home, locks, installation, deadline)
            if (url := _url_if_answering(home, installation, deadline)) is not None:
                return url
            if start is not None and (news := start.news()) is not None:
                raise _not_started(home, reason=news, log_from=start.log_from)
            if not deadline.left_s():
                raise _not_started(
                    home,
                    reason=f"it was not ready within {deadline.span_s:g} s",
                    log_from=0 if start is None else start.log_from,
                )
            deadline.pause()
    finally:
        if start is not None:
            os.close(start.news_from)


def _stop_being_user(home: Home, locks: Locks, deadline: Deadline) -> None:
    """Stop counting as a user; if nobody counts any more, return when the server has ended. Needs the mutex."""
    release(locks.users)
    no_keeper_from_s = time.monotonic() + _NO_KEEPER_S

    def ended_or_needed() -> bool:
        if is_free(locks.server):
            return True
        if try_exclusive(locks.users):
            try:
                if time.monotonic() > no_keeper_from_s:
                    _stop_without_keeper(home, locks)
            finally:
                release(locks.users)
            return False
        # Others use it, or the keeper has the lock and is stopping it: the latter does not share.
        if try_shared(locks.users):
            release(locks.users)
            return True
        return False

    deadline.wait_until(ended_or_needed)


def _stop_without_keeper(home: Home, locks: Locks) -> None:
    # Some process of the server holds the server's lock, so a pid file beside it is that server's and no leftover. (If
    # the directory is gone there is none, and the server notices that by itself within a minute.)
    with suppress(OSError):
        if are_in_place(home, locks) and (found := read_pid_file(home)) is not None:
            os.kill(found.pid, signal.SIGINT)


# -- starting ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """A keeper that we have started: where it tells how its server ended, and where the server's log began."""

    news_from: int
    log_from: int

    def news(self) -> str | None:
        """Return why there is no server, None as long as there may be one."""
        if not select.select([self.news_from], [], [], 0)[0]:
            return None
        return os.read(self.news_from, 1000).decode().partition("\n")[0] or "its keeper was killed"


def _start_if_dead(home: Home, locks: Locks, installation: Installation, deadline: Deadline) -> _Start | None:
    """Start a keeper with a server unless processes of one live; needs the mutex."""
    if not is_free(locks.server):
        return None
    # Another opening of the file: whoever inherits this lock has it as long as it lives, and we shall close ours.
    lock = home.open_file(SERVER, os.O_RDWR)
    try:
        if not try_exclusive(lock):
            return None
        refuse_foreign_server(home)
        installation = reachable_installation(installation, home.account, home.path)
        create_data_if_absent(home, installation, lock=lock, deadline=deadline)
        return _start_keeper(home, installation, lock)
    finally:
        os.close(lock)


def _start_keeper(home: Home, installation: Installation, lock: int) -> _Start:
    with ExitStack() as finally_, ExitStack() as on_failure:
        socket_dir = choose_socket_dir(home)
        if socket_dir != home.data:
            on_failure.callback(socket_dir.rmdir)
        users = home.open_file(USERS, os.O_RDWR)
        finally_.callback(os.close, users)
        log = home.open_file(LOG, os.O_RDWR | os.O_APPEND)
        finally_.callback(os.close, log)
        news_from, news_to = os.pipe()
        on_failure.callback(os.close, news_from)
        finally_.callback(os.close, news_to)
        if os.fstat(log).st_size > _LOG_BYTES_MAX:
            os.ftruncate(log, 0)
        log_from = os.fstat(log).st_size

        numbers = map(str, (users, lock, news_to, home.account.uid, home.account.gid))
        command = server_command(installation, home, socket_dir)
        ended = subprocess.run(
            [sys.executable, "-I", "-S", str(_KEEPER), *numbers, str(home.data), str(socket_dir), *command],
            pass_fds=(users, lock, news_to),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={"LC_ALL": "C", "TZ": "UTC"} | _library_path(),
            # Ctrl-C in the terminal must not reach the server before its users have drained.
            start_new_session=True,
            check=False,
        )
        if ended.returncode:
            raise _not_started(home, reason=f"its keeper ended with status {ended.returncode}", log_from=log_from)
        on_failure.pop_all()
        return _Start(news_from=news_from, log_from=log_from)


def _library_path() -> dict[str, str]:
    # The only thing of our environment that Python itself may need to start; the rest is none of the server's business.
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}


def _url_if_answering(home: Home, installation: Installation, deadline: Deadline) -> str | None:
    found = read_pid_file(home)
    if found is None or not found.ready or found.socket_dir is None or not is_private(found.socket_dir, home):
        return None
    try:
        with_statistics = installation.has_extension("pg_stat_statements")
        return prepare_database(found.socket_dir, with_statistics=with_statistics, heed=deadline.heed)
    except NoAnswer as error:
        raise ServerSilent(home.path, pid=found.pid, waited_s=SILENCE_S, log_path=home.log) from error
    except asyncpg.PostgresError as error:
        raise start_failure(
            home.path, reason="it cannot be used", log_path=home.log, said=f"{type(error).__name__}: {error}"
        ) from error


def _not_started(home: Home, *, reason: str, log_from: int = 0) -> EmbeddedPostgresError:
    try:
        log = home.open_file(LOG, os.O_RDONLY)
    except OSError:
        return ServerNotStarted(home.path, reason=reason, log_path=home.log, log_tail="")
    try:
        size = os.fstat(log).st_size
        said = os.pread(log, 10_000, max(log_from, size - 10_000)).decode(errors="replace")
    finally:
        os.close(log)
    return start_failure(home.path, reason=reason, log_path=home.log, said=said)
