"""The process that holds the server: starts it, starts it again should it crash, and stops it when nobody is left.

Run as a script by the process that starts the server, and the only one of ours that outlives it:

    python -I -S keeper.py USERS SERVER NEWS UID GID DATA SOCKET_DIR COMMAND...

USERS is a descriptor of the users' lock, opened for the keeper alone. It waits for an exclusive lock on it: the kernel
wakes it in the moment when the last user leaves or dies, SIGKILL included, and nobody can join while it holds it.
SERVER is a descriptor whose lock says "a server lives"; Postgres inherits it. To NEWS it writes a line whenever
Postgres ends. COMMAND is Postgres with the directory of its DATA; SOCKET_DIR is removed at the end if it is another.

The descriptors stay true when the directory is deleted and made anew by others; paths do not. So before it touches
DATA it makes sure that the file of SERVER is still beside it.

Separate because it is another program: it imports nothing but the standard library, all of it before it changes
users, since the new user may not be able to read it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

# A fast shutdown ends all sessions and writes a checkpoint. After the first span it is told to quit as after a crash,
# which loses nothing that was committed.
STOP = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

RESTART_PAUSE_MIN_S = 0.05
# A full disk is what keeps a server from coming back; it is looked at again this often.
RESTART_PAUSE_MAX_S = 5.0
# A server that has run this long did not fail to start.
SETTLED_S = 60.0
# How often it looks whether its directory is still there.
LOOK_S = 0.5


class Keeper:
    """The server's current process, and whether it is still wanted."""

    def __init__(self, *, users: int, server: int, news: int, data: Path, socket_dir: Path, command: list[str]) -> None:
        self.users = users
        self.server = server
        self.news = news
        self.command = command
        self.data = data
        self.socket_dir = socket_dir
        self.pid: int | None = None
        self._unused = threading.Event()
        self._ended = threading.Event()

    def run(self) -> None:
        """Return when nobody uses the server and it has ended."""
        for watch in (self._stop_when_unused, self._stop_when_homeless):
            threading.Thread(target=watch, daemon=True).start()
        pause_s = RESTART_PAUSE_MIN_S
        while not self._unused.is_set() and self._data_are_ours():
            began_s = time.monotonic()
            status = self._run_server()
            self._tell(status)
            if not self._unused.is_set():
                say(f"the server ended {how(status)} while in use; it is started again")
            pause_s = RESTART_PAUSE_MIN_S if time.monotonic() - began_s > SETTLED_S else pause_s * 2
            self._unused.wait(min(pause_s, RESTART_PAUSE_MAX_S))
        self._ended.set()

    def _run_server(self) -> int:
        # Left by a server that is known to be dead. Postgres would refuse to start if the process id in them is alive:
        # given to another process of the same user, or a zombie that nobody reaps, both common in containers.
        for left in (self.data / "postmaster.pid", *self.socket_dir.glob(".s.PGSQL.*.lock")):
            with suppress(OSError):
                left.unlink()
        self.pid = os.posix_spawn(self.command[0], self.command, os.environ)
        # The other order is covered too: the thread sets `_unused` before it looks for a process to stop.
        if self._unused.is_set():
            self._signal(signal.SIGINT)
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def _stop_when_unused(self) -> None:
        fcntl.flock(self.users, fcntl.LOCK_EX)
        self._stop()

    def _stop_when_homeless(self) -> None:
        # Who still uses it would go on writing what nobody can find, beside whoever starts anew at the same path.
        while not self._ended.wait(LOOK_S):
            if self._data_are_gone():
                say("the data directory is gone: it was deleted, moved or replaced; the server is stopped")
                self._stop()
                return

    def _stop(self) -> None:
        self._unused.set()
        # Without its data the server has nothing to write, and trying to takes it several seconds. Any end but a sudden
        # one would also remove the socket at its path, which may be that of a server that was started there since.
        for number, patience_s in STOP if self._data_are_ours() else STOP[-1:]:
            self._signal(number)
            if self._ended.wait(patience_s):
                return

    def _data_are_ours(self) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.fstat(self.server), self.data.with_name("server").lstat())
        return False

    def _data_are_gone(self) -> bool:
        # A doubt, say because a directory above cannot be read, is no reason to stop.
        try:
            return not os.path.samestat(os.fstat(self.server), self.data.with_name("server").lstat())
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _tell(self, exit_code: int) -> None:
        with suppress(OSError):  # who started the server listens only until it is ready
            os.write(self.news, f"it ended {how(exit_code)}\n".encode())


def how(exit_code: int) -> str:
    """Say how a process ended."""
    return f"with status {exit_code}" if exit_code >= 0 else f"by signal {-exit_code}"


def say(what: str) -> None:
    """Add a line to the server's log, which is our standard error."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    with suppress(OSError):
        os.write(2, f"{now} [{os.getpid()}] KEEPER:  {what}\n".encode())


def become(uid: int, gid: int) -> None:
    """Give root up for good; nothing to do for an ordinary user."""
    if os.geteuid() != uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def detach() -> None:
    """Let the parent go on at once, and leave it no child to reap: the keeper may outlive it or end before it."""
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Meant for whoever uses the server; its end is what ends the keeper. A handler, because a child inherits
        # "ignored", and Postgres must hear its signals.
        signal.signal(number, _ignore)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


def remove_socket_dir(socket_dir: Path) -> None:
    """Remove what Postgres left in it (nothing, unless it was killed), then the directory."""
    with suppress(OSError):
        for left in socket_dir.iterdir():
            left.unlink()
        socket_dir.rmdir()


def main(arguments: list[str]) -> None:
    """Hold the server until nobody uses it."""
    users, server, news, uid, gid = map(int, arguments[:5])
    data, socket_dir, command = Path(arguments[5]), Path(arguments[6]), arguments[7:]
    become(uid, gid)
    detach()
    fcntl.fcntl(server, fcntl.F_SETFD, 0)
    for private in (users, news):
        fcntl.fcntl(private, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    Keeper(users=users, server=server, news=news, data=data, socket_dir=socket_dir, command=command).run()
    if socket_dir != data:
        remove_socket_dir(socket_dir)


if __name__ == "__main__":
    main(sys.argv[1:])
