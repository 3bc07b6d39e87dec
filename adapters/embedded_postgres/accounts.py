"""As whom the server runs.

Postgres refuses to run as root, so root hands it to another account: the owner of the directory if that is an ordinary
user, else the system user `leasehold`, created when missing. Everybody else runs it as themselves. The account is a
value that the other modules pass on; only this one knows how to find, make and become one.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.embedded_postgres.errors import NoServerAccount

DEDICATED = "leasehold"

# Commands that make a system user without a home, by the tool that a distribution has: shadow, then busybox.
_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_CREATE = (
    ("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/false"),
    ("adduser", "-S", "-D", "-H", "-h", "/nonexistent", "-s", "/bin/false"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An operating system user, by number; the name is None when the user database has none for it."""

    uid: int
    gid: int
    name: str | None

    @property
    def is_other(self) -> bool:
        """Whether becoming this user needs root's rights."""
        return self.uid != os.geteuid()

    def __str__(self) -> str:
        return str(self.uid) if self.name is None else self.name


def own_account() -> Account:
    """Return the user of this process."""
    return Account(uid=os.geteuid(), gid=os.getegid(), name=user_name(os.geteuid()))


def owner_account(found: os.stat_result) -> Account:
    """Return the owner of a file; the group is the owner's own when the user database knows it."""
    try:
        gid = pwd.getpwuid(found.st_uid).pw_gid
    except KeyError:
        gid = found.st_gid
    return Account(uid=found.st_uid, gid=gid, name=user_name(found.st_uid))


def user_name(uid: int) -> str | None:
    """Return the name of a user, or None if the user database does not have one."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def dedicated_account(data_dir: Path) -> Account:
    """Return the system user that serves root, creating it when it is missing; repeating changes nothing.

    Raises:
        NoServerAccount: it does not exist and this machine has no tool that creates it, or the tool refused.
    """
    said = "this machine has neither useradd nor adduser"
    # Several times, because the user database has a lock of its own, for which the tools do not wait.
    for _ in range(10):
        try:
            found = pwd.getpwnam(DEDICATED)
        except KeyError:
            pass
        else:
            return Account(uid=found.pw_uid, gid=found.pw_gid, name=found.pw_name)
        create = next((c for c in _CREATE if shutil.which(c[0], path=_SYSTEM_PATH)), None)
        if create is None:
            break
        ended = subprocess.run(
            [*create, DEDICATED],
            env={"PATH": _SYSTEM_PATH, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        if ended.returncode:
            said = (ended.stderr or ended.stdout).strip()
            time.sleep(0.2)
    raise NoServerAccount(
        data_dir, reason=f'it does not run as root, and the system user "{DEDICATED}" cannot be created ({said})'
    )


def run_as(
    account: Account, command: Sequence[str], *, timeout_s: float, pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program as the account, out of reach of the terminal's Ctrl-C, and return its output (both streams in one).

    Raises:
        OSError: it cannot be started, or this process may not become that user.
        subprocess.TimeoutExpired: it was killed after `timeout_s`.
    """
    return subprocess.run(
        command,
        user=account.uid if account.is_other else None,
        group=account.gid if account.is_other else None,
        extra_groups=[] if account.is_other else None,
        cwd="/",
        env={"PATH": _SYSTEM_PATH, "LC_ALL": "C", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout_s,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    )


def can_reach(account: Account, path: Path, *, data_dir: Path) -> bool:
    """Whether the account may enter the directory (or run the program) at `path`.

    Asked by trying, as that user: permission bits alone know nothing of access lists, mounts or security modules.

    Raises:
        NoServerAccount: this process may not become that user at all.
    """
    if not account.is_other:
        return os.access(path, os.X_OK)
    try:
        return run_as(account, ["/bin/sh", "-c", 'test -x "$0"', str(path)], timeout_s=10).returncode == 0
    except OSError as error:
        # EPERM without the capability, EINVAL where a container's user namespace does not have this user.
        if error.errno not in {errno.EPERM, errno.EINVAL}:
            raise
        raise NoServerAccount(
            data_dir, reason=f'it does not run as root, and this process may not become user "{account}" ({error})'
        ) from error
