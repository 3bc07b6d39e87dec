"""Who is here: three locked files, so that the operating system does the counting.

    lock     exclusive, for a moment: whoever joins, starts the server, or leaves. Everything else happens under it.
    users    shared, for as long as a user stays. An exclusive lock on it can be had exactly when nobody is left.
    server   exclusive, inherited by initdb, the keeper and every process of Postgres: free exactly when all have ended.

A lock of flock(2) belongs to an open file, not to a process id: it goes when the last descriptor of it goes, however
the process ends, and no reused process id can be mistaken for it. A child made by fork alone shares its parent's
descriptors and so counts as the same user. The descriptors stay open from joining to leaving, so that a directory
that was deleted, or deleted and made again, meanwhile does not matter: the locks are on the old files.

This module knows nothing of Postgres.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from adapters.embedded_postgres.deadline import Deadline
from adapters.embedded_postgres.directory import LOCK, MARK, SERVER, USERS, Home
from adapters.embedded_postgres.errors import DataDirectoryLocked


@dataclass(frozen=True, slots=True, kw_only=True)
class Locks:
    """Descriptors of the three files, opened by one user for its whole stay."""

    mutex: int
    users: int
    server: int

    def close(self) -> None:
        """Let go of everything that is still held."""
        for descriptor in (self.users, self.server, self.mutex):
            release(descriptor)
            os.close(descriptor)


def try_exclusive(descriptor: int) -> bool:
    """Lock for us alone if nobody else holds it in any way."""
    return _try(descriptor, fcntl.LOCK_EX)


def try_shared(descriptor: int) -> bool:
    """Lock beside other shared holders; a lock that is held already becomes shared."""
    return _try(descriptor, fcntl.LOCK_SH)


def release(descriptor: int) -> None:
    """Unlock; also for children that inherited the descriptor."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_free(descriptor: int) -> bool:
    """Whether nobody holds it; must not be asked of a lock that is ours."""
    if try_exclusive(descriptor):
        release(descriptor)
        return True
    return False


def lock_directory(home: Home, deadline: Deadline) -> Locks:
    """Open the three files and take the mutex.

    Raises:
        DataDirectoryLocked: its holder did not let go in time; names the holder.
    """
    while True:
        locks = _open(home)
        try:
            retake_mutex(home, locks, deadline)
            # Somebody may have deleted the directory while we waited; a lock on a deleted file excludes nobody.
            if are_in_place(home, locks):
                return locks
        except BaseException:
            locks.close()
            raise
        locks.close()


def are_in_place(home: Home, locks: Locks) -> bool:
    """Whether the directory is still the one that the locks were opened in."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(locks.server), (home.path / SERVER).lstat())
    return False


def is_gone(home: Home, locks: Locks) -> bool:
    """Whether the directory was deleted, moved away, or replaced; a doubt (say, no permission to look) is a no."""
    try:
        return not os.path.samestat(os.fstat(locks.server), (home.path / SERVER).lstat())
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def retake_mutex(home: Home, locks: Locks, deadline: Deadline) -> None:
    """Take the mutex and write down who has it.

    Raises:
        DataDirectoryLocked: its holder did not let go in time; names the holder.
    """
    if not deadline.wait_until(lambda: try_exclusive(locks.mutex)):
        raise DataDirectoryLocked(home.path, pid=_read_holder(locks.mutex), waited_s=deadline.span_s)
    # Always the same length and in place: on a full disk only the very first of these can fail.
    os.pwrite(locks.mutex, MARK + b"%-20d\n" % os.getpid(), 0)


def _open(home: Home) -> Locks:
    with ExitStack() as on_failure:

        def opened(name: str) -> int:
            descriptor = home.open_file(name, os.O_RDWR)
            on_failure.callback(os.close, descriptor)
            return descriptor

        locks = Locks(mutex=opened(LOCK), users=opened(USERS), server=opened(SERVER))
        on_failure.pop_all()
        return locks


def _try(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(mutex: int) -> int | None:
    written = os.pread(mutex, 100, 0).removeprefix(MARK).strip()
    return int(written) if written.isdigit() else None
