"""Where the data lives: the directory that was asked for, or, for root, one that the server's user can reach.

Layout of a home:

    lock          who starts or stops the server now (see `locks`); its first line marks the directory as ours
    users         locked, shared, by everybody who uses the server
    server        locked by the server's processes as long as one of them lives
    postgres/     the data of Postgres; only the server's user may enter it, and the socket is in it
    postgres.log  what the server says

A directory is used when it is new, empty, or ours, and never otherwise: a mistyped path must not end in somebody's
home directory full of our files. Permissions are changed on the home itself at most, never on what leads to it.

This module knows the file system; it does not know whether a server runs.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adapters.embedded_postgres.accounts import (
    Account,
    can_reach,
    dedicated_account,
    own_account,
    owner_account,
    user_name,
)
from adapters.embedded_postgres.errors import DataDirectoryForeign, DataDirectoryUnusable

# For root only: homes and programs that an ordinary user can reach.
STATE_DIR = Path("/var/lib/leasehold")

LOCK, USERS, SERVER, DATA, NEW_DATA, LOG, ORIGIN = (
    "lock",
    "users",
    "server",
    "postgres",
    "postgres.new",
    "postgres.log",
    "origin",
)
MARK = b"leasehold embedded postgres\n"

_OURS = {LOCK, USERS, SERVER, DATA, NEW_DATA, LOG, ORIGIN}
# What people, version control and file systems put into directories that are otherwise empty.
_HARMLESS = {".gitignore", ".gitkeep", ".keep", ".DS_Store", "lost+found"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A directory that is ours, the account that its server runs as, and what the user should be told about it."""

    path: Path
    account: Account
    notice: str | None = None

    @property
    def data(self) -> Path:
        """Where Postgres keeps its files."""
        return self.path / DATA

    @property
    def log(self) -> Path:
        """What the server said."""
        return self.path / LOG

    def open_file(self, name: str, flags: int) -> int:
        """Open (or create, private) a regular file of the home and return its descriptor.

        Root may be looking into an ordinary user's directory: nothing is followed, and nothing that belongs to a third
        party is accepted. What root creates there belongs to that user, who will need it.

        Raises:
            DataDirectoryForeign: it is of another user, or not a regular file.
        """
        directory = self.open_directory()
        try:
            flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
            except FileExistsError:
                descriptor = os.open(name, flags, dir_fd=directory)
            else:
                if os.fstat(directory).st_uid == self.account.uid:
                    os.fchown(descriptor, self.account.uid, -1)
        finally:
            os.close(directory)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in {os.geteuid(), self.account.uid}:
            os.close(descriptor)
            raise _of_another_user(self.path, found.st_uid, what=f'"{name}" in it')
        return descriptor

    def open_directory(self) -> int:
        """Return a descriptor of the home, for work that must not be led astray by a replaced directory."""
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def choose_home(requested: Path) -> Home:
    """Decide where the data of `requested` lives and make sure that this place exists and is ours; idempotent.

    Raises:
        DataDirectoryForeign: it is not empty and not ours, or of another user.
        NoServerAccount: we are root and there is nobody to run the server as.
        DataDirectoryUnusable: the server's user cannot reach data that is already there.
        OSError: it cannot be created or read.
    """
    path = requested.absolute().resolve()
    if os.geteuid() == 0:
        return _home_for_root(path)
    if _create(path):
        _ignore_in_git(path)
    _refuse_foreign(path)
    return Home(path=path, account=own_account())


def holds_data(requested: Path) -> bool:
    """Whether there is a database for this directory already; nothing is made or changed."""
    path = requested.absolute().resolve()
    homes = (path, _substitute(path)) if os.geteuid() == 0 else (path,)
    try:
        return any(_data_directory(home) is not None for home in homes)
    except PermissionError:
        # Somebody's it is. Who opens it is told whose.
        return True


def _substitute(path: Path) -> Path:
    return STATE_DIR / hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _home_for_root(path: Path) -> Home:
    substitute = _substitute(path)
    for home in (path, substitute):
        # Data that exists decides: moving on to an empty home because permissions have changed would look like a loss.
        if (found := _data_directory(home)) is not None:
            _refuse_foreign(home)
            account = _account_of_data(home, found)
            return Home(path=home, account=account, notice=_notice(path, home, account))

    account = _account_for(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if can_reach(account, path.parent, data_dir=path):
        if _create(path):
            _ignore_in_git(path)
        _refuse_foreign(path)
        _let_enter(account, path)
        return Home(path=path, account=account)

    # The owner of the requested directory has no part in this one.
    account = dedicated_account(path)
    make_state_dir(path)
    if _create(substitute):
        (substitute / ORIGIN).write_bytes(os.fsencode(path) + b"\n")
    _refuse_foreign(substitute)
    _let_enter(account, substitute)
    return Home(path=substitute, account=account, notice=_notice(path, substitute, account))


def make_state_dir(data_dir: Path) -> None:
    """Make sure that root's own place exists and that nobody else can write there; idempotent."""
    with suppress(FileExistsError):
        STATE_DIR.mkdir()
        STATE_DIR.chmod(0o755)  # whatever the umask says
    found = STATE_DIR.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise DataDirectoryUnusable(
            data_dir,
            reason=f"its data would go to {STATE_DIR}, which others than root can write to",
            hint=f"Make {STATE_DIR} a directory of root with mode 755, or remove it.",
        )


def _data_directory(home: Path) -> os.stat_result | None:
    try:
        return (home / DATA).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _account_of_data(home: Path, found: os.stat_result) -> Account:
    account = owner_account(found)
    if account.uid == 0:
        raise DataDirectoryForeign(
            home, reason=f"{DATA} in it belongs to root, as whom Postgres does not run (chown it to its user again)"
        )
    if not can_reach(account, home, data_dir=home):
        raise DataDirectoryUnusable(
            home,
            reason=f'it has data, but the server\'s user "{account}" cannot reach it any more',
            hint=f'Let "{account}" pass through the directories above it (chmod o+x), or move it to where it may.',
        )
    return account


def _account_for(path: Path) -> Account:
    """Choose who runs a server whose data does not exist yet: the directory's owner, unless that is root or nobody."""
    try:
        owner = owner_account(path.lstat())
    except FileNotFoundError:
        return dedicated_account(path)
    # initdb looks its user's name up and gives up without one.
    return owner if owner.uid != 0 and owner.name is not None else dedicated_account(path)


def _notice(requested: Path, home: Path, account: Account) -> str | None:
    if home == requested:
        return None
    return f'The data is in {home}, because the server\'s user "{account}" cannot reach {requested}.'


def _create(path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _ignore_in_git(path: Path) -> None:
    # A database does not belong into the repository that it was started in.
    (path / ".gitignore").write_text("*\n", encoding="ascii")


def _let_enter(account: Account, path: Path) -> None:
    if account.is_other and not can_reach(account, path, data_dir=path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) | 0o011)
        finally:
            os.close(descriptor)


def _refuse_foreign(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise DataDirectoryUnusable(path, reason="it is not a directory", hint="Name a directory (--data-dir).")
    if os.geteuid() not in {0, found.st_uid} and found.st_uid != 0:
        raise _of_another_user(path, found.st_uid)
    try:
        entries = {entry.name for entry in path.iterdir()}
    except PermissionError:
        if found.st_uid == os.geteuid():
            raise
        raise _of_another_user(path, found.st_uid) from None
    if LOCK in entries and _is_marked(path):
        return
    if strangers := sorted(entries - _OURS - _HARMLESS):
        others = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise DataDirectoryForeign(path, reason=f'it is not ours and not empty (it has "{strangers[0]}"{others})')


def _is_marked(path: Path) -> bool:
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise _of_another_user(path, (path / LOCK).lstat().st_uid, what="its lock") from None
    try:
        return os.read(descriptor, len(MARK)) == MARK
    finally:
        os.close(descriptor)


def _of_another_user(path: Path, uid: int, *, what: str = "it") -> DataDirectoryForeign:
    owner = user_name(uid) or str(uid)
    return DataDirectoryForeign(path, reason=f'{what} belongs to user "{owner}"', owner=owner)
