"""The embedded server: real servers, real processes, real users of the operating system.

Most tests share one directory whose database exists (`place`); its server is stopped between them. As root, tests of
ordinary users run their processes as such; as an ordinary user, tests of root are skipped.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from adapters.embedded_postgres import (
    DataDirectoryForeign,
    DataDirectoryGone,
    DataDirectoryInUse,
    DataDirectoryLocked,
    DataDirectoryUnusable,
    DiskFull,
    EmbeddedNotInstalled,
    ServerNotStarted,
    ServerSilent,
    SocketPathTooLong,
    WrongServerVersion,
    database,
    embedded_postgres,
    is_installed,
)
from adapters.embedded_postgres.accounts import Account, can_reach, dedicated_account, own_account, run_as
from adapters.embedded_postgres.cluster import choose_socket_dir, server_command
from adapters.embedded_postgres.deadline import Deadline
from adapters.embedded_postgres.directory import STATE_DIR, Home, choose_home
from adapters.embedded_postgres.installation import Installation, find_installation, reachable_installation
from adapters.embedded_postgres.locks import lock_directory
from kernel.errors import NoDatabase, Unavailable

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(120),  # an initdb takes a second, on a machine that is busy with other things ten
    pytest.mark.skipif(not is_installed(), reason='needs pip install "leasehold[embedded]"'),
]

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

USER = """
import json, sys
from pathlib import Path
from adapters.embedded_postgres import EmbeddedPostgresError, embedded_postgres

def tell(**facts):
    print(json.dumps(facts, default=str), flush=True)

try:
    with embedded_postgres(Path(sys.argv[1]), start_timeout_s=30) as server:
        tell(url=server.url, data_dir=server.data_dir, notice=server.notice)
        try:
            sys.stdin.readline()
        except KeyboardInterrupt:
            tell(interrupted=True)
            sys.stdin.readline()
except EmbeddedPostgresError as error:
    tell(error=type(error).__name__, text=str(error), **vars(error))
"""


# -- instruments ------------------------------------------------------------------------------------------------------


def ask(url: str, query: str) -> Any:
    async def fetch() -> Any:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def eventually(condition: Callable[[], bool]) -> bool:
    return Deadline.after(20).wait_until(condition)


def processes_of(directory: Path, program: str = "/postgres") -> list[psutil.Process]:
    """Postmasters (or, by the name of its script, keepers) that hold the data in this directory."""
    data = str(directory.resolve() / "postgres")
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if (line := process.info["cmdline"] or []) and data in line and any(part.endswith(program) for part in line[:4])
        if process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def postmaster_of(directory: Path) -> psutil.Process:
    # A keeper's arguments end with the server's, so what is a postmaster shows in the first word.
    (process,) = [p for p in processes_of(directory) if p.info["cmdline"][0].endswith("/postgres")]
    return process


def is_running(directory: Path) -> bool:
    return bool(processes_of(directory))


class User:
    """A process that uses a directory's server until it is told to leave."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the process ended with {self.process.wait()}"
        return json.loads(line)

    def leave(self) -> int:
        self.process.communicate("leave\n", timeout=50)
        return self.process.returncode


@contextmanager
def user_of(directory: Path, account: Account | None = None, python: str = sys.executable) -> Generator[User]:
    packages = Path(asyncpg.__file__).parents[1]
    process = subprocess.Popen(
        [python, "-c", USER, str(directory)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=directory.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        user=None if account is None or not account.is_other else account.uid,
        group=None if account is None or not account.is_other else account.gid,
        extra_groups=None if account is None or not account.is_other else [],
    )
    with process:
        try:
            yield User(process)
        finally:
            process.kill()


def account_named(name: str) -> Account:
    found = pwd.getpwnam(name)
    return Account(uid=found.pw_uid, gid=found.pw_gid, name=name)


def python_for(*accounts: Account) -> str:
    """An interpreter like ours that these users may run, with our packages."""
    needed = [ROOT / "adapters", Path(asyncpg.__file__).parent, find_installation().program("postgres")]
    system = shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    for python in filter(None, (sys.executable, system)):
        if all(can_reach(a, path, data_dir=ROOT) for a in accounts for path in (*needed, Path(python))):
            return python
    pytest.skip("no other user can run this Python and read this project")


def directory_of(folder: Path, account: Account) -> Path:
    """A new folder that belongs to an ordinary user, and the directory in it that their server is to live in."""
    home = folder / f"of-{account}"
    home.mkdir(mode=0o700)
    os.chown(home, account.uid, account.gid)
    return home / ".leasehold"


def discard(made: Path) -> None:
    """Remove what root's server got in the place of the system, and the place itself if that was all."""
    shutil.rmtree(made)
    with suppress(OSError):
        STATE_DIR.rmdir()


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: as root, nobody else may enter that.
    with new_folder() as made:
        yield made


@contextmanager
def new_folder() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="leasehold-test-") as made:
        path = Path(made).resolve()
        path.chmod(0o755)
        yield path
        left = [p for p in psutil.process_iter(["cmdline"]) if any(made in part for part in p.info["cmdline"] or [])]
        for process in left:
            process.kill()
        assert not left, "a process of the embedded server was left behind"


@pytest.fixture(scope="module")
def _place() -> Iterator[Path]:
    with new_folder() as made:
        with embedded_postgres(made / ".leasehold"):
            pass
        yield made / ".leasehold"


@pytest.fixture
def place(_place: Path) -> Path:
    assert not is_running(_place)
    return _place


@pytest.fixture
def copied(place: Path, folder: Path) -> Path:
    """A directory with a database, to be spoilt for good."""
    subprocess.run(["cp", "-a", place, folder], check=True)
    return folder / place.name


@contextmanager
def rewritten(path: Path, text: str | None) -> Generator[None]:
    """A file with another content (None: without it) for a while; owner and permissions stay."""
    before = path.read_text()
    if text is None:
        aside = path.rename(path.with_name("aside"))
    else:
        path.write_text(text)
    try:
        yield
    finally:
        if text is None:
            aside.rename(path)
        path.write_text(before)


@contextmanager
def moved(directory: Path, to: Path) -> Generator[Path]:
    """A directory under another name for a while."""
    directory.rename(to)
    try:
        yield to
    finally:
        to.rename(directory)


def copied_for(account: Account, place: Path, folder: Path) -> Path:
    """A directory with a database in a folder of an ordinary user, all of it theirs."""
    directory = directory_of(folder, account)
    subprocess.run(["cp", "-a", place, directory.parent], check=True)
    subprocess.run(["chown", "-R", f"{account.uid}:{account.gid}", directory], check=True)
    return directory


@pytest.fixture
def someone() -> Account:
    """An ordinary user."""
    return account_named("nobody") if os.geteuid() == 0 else own_account()


# -- one process ------------------------------------------------------------------------------------------------------


def test_the_server_is_private_durable_and_speaks_utc_and_utf8(place: Path) -> None:
    settings = "listen_addresses fsync synchronous_commit TimeZone max_connections shared_buffers server_encoding"

    with embedded_postgres(place) as server:
        found = {name: ask(server.url, f"SHOW {name}") for name in settings.split()}
        version = ask(server.url, "SHOW server_version_num")
        database = ask(server.url, "SELECT current_database() || ' ' || datlocprovider::text || ' ' || datlocale "
                                   "FROM pg_database WHERE datname = current_database()")  # fmt: skip

    assert list(found.values()) == ["", "on", "on", "UTC", "200", "128MB", "UTF8"]
    assert version.startswith("18")
    assert database == "leasehold b C.UTF-8"


def test_it_says_where_it_is_and_notices_nothing_when_that_is_where_it_was_asked_for(place: Path) -> None:
    with embedded_postgres(place) as server:
        assert server.data_dir == place
        assert server.notice is None
        assert f"host={place}/postgres&" in server.url


def test_the_server_stops_when_its_only_user_leaves_and_the_data_stay(place: Path) -> None:
    with embedded_postgres(place) as server:
        ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert is_running(place)
    assert not is_running(place)
    assert not (place / "postgres" / "postmaster.pid").exists()

    with embedded_postgres(place) as server:
        assert ask(server.url, "SELECT answer FROM kept") == 42


def test_an_error_in_the_body_comes_out_unchanged_and_the_server_stops(place: Path) -> None:
    with pytest.raises(ZeroDivisionError), embedded_postgres(place):
        _ = 1 / 0

    assert not is_running(place)


def test_one_process_may_be_in_twice_and_leaves_in_any_order(place: Path) -> None:
    first, second = embedded_postgres(place), embedded_postgres(place)

    url = first.__enter__().url
    assert second.__enter__().url == url
    first.__exit__(None, None, None)
    assert ask(url, "SELECT 1") == 1
    second.__exit__(None, None, None)

    assert not is_running(place)


def test_it_can_be_entered_where_an_event_loop_runs_and_left_in_another_thread(place: Path) -> None:
    async def enter_and_leave() -> str:
        context = embedded_postgres(place)
        url = context.__enter__().url
        await asyncio.to_thread(context.__exit__, None, None, None)
        return url

    assert "leasehold" in asyncio.run(enter_and_leave())
    assert not is_running(place)


def test_the_environment_does_not_mislead_client_or_server(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "6543", "PGHOST": "elsewhere", "PGDATA": "/nowhere", "PGDATABASE": "none"}.items():
        monkeypatch.setenv(name, value)

    with embedded_postgres(place) as server:
        assert ask(server.url, "SELECT current_database()") == "leasehold"


# -- several processes ------------------------------------------------------------------------------------------------


def test_processes_that_come_at_once_share_one_server_which_stops_with_the_last(folder: Path) -> None:
    directory = folder / ".leasehold"
    with ExitStack() as stack:
        users = [stack.enter_context(user_of(directory)) for _ in range(4)]
        started = {ask(user.told()["url"], "SELECT pg_postmaster_start_time()") for user in users}
        assert len(started) == 1

        for user in users[:-1]:
            assert user.leave() == 0
        assert is_running(directory)
        assert users[-1].leave() == 0
        assert not is_running(directory)


def test_a_killed_user_counts_no_longer(place: Path) -> None:
    with user_of(place) as victim:
        victim.told()
        with embedded_postgres(place) as server:
            victim.process.kill()
            victim.process.wait()
            assert ask(server.url, "SELECT 1") == 1

        assert not is_running(place)


def test_a_server_whose_only_user_was_killed_stops_by_itself(place: Path) -> None:
    with user_of(place) as victim:
        victim.told()
        victim.process.kill()

    assert eventually(lambda: not is_running(place))
    assert not (place / "postgres" / "postmaster.pid").exists(), "it was not shut down in order"


def test_interrupting_the_terminal_does_not_reach_the_server_before_its_users_have_drained(place: Path) -> None:
    with user_of(place) as user:
        url = user.told()["url"]
        server = postmaster_of(place)

        os.killpg(user.process.pid, signal.SIGINT)

        assert user.told() == {"interrupted": True}
        assert ask(url, "SELECT 1") == 1
        assert postmaster_of(place) == server
        assert user.leave() == 0


def test_a_server_that_dies_under_its_users_comes_back(place: Path) -> None:
    with embedded_postgres(place) as server:
        started = ask(server.url, "SELECT pg_postmaster_start_time()")
        before = server.find_process()

        postmaster_of(place).kill()

        def is_back() -> bool:
            try:
                return ask(server.url, "SELECT pg_postmaster_start_time()") > started
            except (OSError, asyncpg.PostgresError):
                return False

        assert eventually(is_back)
        assert eventually(lambda: server.find_process() not in {None, before})
        assert "the server ended by signal 9 while in use" in (place / "postgres.log").read_text()


def test_who_meets_a_server_that_does_not_answer_learns_which_process_it_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SILENCE_S", 0.3)
    with embedded_postgres(place), paused(postmaster_of(place)) as postmaster:
        with pytest.raises(ServerSilent, match=rf"process {postmaster.pid} has said nothing") as caught:
            embedded_postgres(place).__enter__()

        assert caught.value.hint is not None
        assert f"kill -CONT {postmaster.pid}" in caught.value.hint


def test_waiting_for_a_server_that_does_not_answer_ends_when_nobody_wants_it_any_more(place: Path) -> None:
    def heed() -> None:
        raise KeyboardInterrupt

    with embedded_postgres(place), paused(postmaster_of(place)):
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            embedded_postgres(place, heed=heed).__enter__()

        assert time.monotonic() - began < database.SILENCE_S / 2


@contextmanager
def paused(process: psutil.Process) -> Generator[psutil.Process]:
    process.suspend()
    try:
        yield process
    finally:
        process.resume()


def test_without_its_keeper_the_server_still_stops_with_the_last_user(place: Path) -> None:
    with embedded_postgres(place):
        (keeper,) = processes_of(place, "keeper.py")
        keeper.kill()

    assert eventually(lambda: not is_running(place))


def test_after_a_crash_of_everything_it_starts_again_even_if_its_process_id_was_given_away(place: Path) -> None:
    with user_of(place) as victim:
        ask(victim.told()["url"], "CREATE TABLE survived AS SELECT 42 AS answer")
        for process in (*processes_of(place, "keeper.py"), postmaster_of(place), psutil.Process(victim.process.pid)):
            process.kill()
    assert eventually(lambda: not is_running(place))
    pid_file = place / "postgres" / "postmaster.pid"
    with sleeper(choose_home(place).account) as innocent:
        _, _, rest = pid_file.read_text().partition("\n")
        pid_file.write_text(f"{innocent.pid}\n{rest}")

        with embedded_postgres(place) as server:
            assert ask(server.url, "SELECT answer FROM survived") == 42

        assert innocent.poll() is None


@contextmanager
def sleeper(account: Account) -> Generator[subprocess.Popen[bytes]]:
    other = account.is_other
    with subprocess.Popen(
        ["sleep", "60"], user=account.uid if other else None, extra_groups=[] if other else None
    ) as it:
        try:
            yield it
        finally:
            it.kill()


def test_deleting_the_directory_under_a_user_does_not_keep_it_from_leaving(copied: Path) -> None:
    with embedded_postgres(copied):
        postmaster = postmaster_of(copied)
        shutil.rmtree(copied)

    assert not postmaster.is_running()


def test_the_server_does_not_outlive_its_directory(copied: Path) -> None:
    with embedded_postgres(copied):
        postmaster = postmaster_of(copied)

        shutil.rmtree(copied)

        assert eventually(lambda: not postmaster.is_running())


def test_a_directory_that_was_replaced_under_its_users_gets_a_server_of_its_own(copied: Path, place: Path) -> None:
    with embedded_postgres(copied) as old:
        ask(old.url, "CREATE TABLE old()")
        old_postmaster = postmaster_of(copied)
        shutil.rmtree(copied)

        with moved(place, copied), embedded_postgres(copied) as new:
            assert ask(new.url, "SELECT to_regclass('old')") is None
            with pytest.raises(DataDirectoryGone, match="deleted, moved or replaced"):
                old.find_process()

            # The old keeper stops its server, and must not take the new data for its own.
            assert eventually(lambda: not old_postmaster.is_running())
            assert eventually(lambda: len(processes_of(copied, "keeper.py")) == 1)
            assert (copied / "postgres" / "postmaster.pid").exists()
            assert ask(new.url, "SELECT 1") == 1


# -- what a person has to fix -----------------------------------------------------------------------------------------


def test_a_missing_wheel_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])

    assert not is_installed()
    with pytest.raises(EmbeddedNotInstalled, match=r'pip install "leasehold\[embedded\]"') as caught:
        embedded_postgres(Path("anywhere")).__enter__()
    assert isinstance(caught.value, NoDatabase)
    assert isinstance(caught.value, Unavailable)


def test_who_waits_too_long_for_the_lock_learns_who_holds_it(place: Path) -> None:
    locks = lock_directory(choose_home(place), Deadline.after(5))
    try:
        with pytest.raises(DataDirectoryLocked, match=f"process {os.getpid()}") as caught:
            embedded_postgres(place, start_timeout_s=0.1).__enter__()
    finally:
        locks.close()

    assert caught.value.pid == os.getpid()
    assert caught.value.data_dir == place


def test_a_lock_file_that_a_dead_process_left_is_no_obstacle(place: Path) -> None:
    with user_of(place) as victim:
        victim.told()
        victim.process.kill()
    assert str(victim.process.pid) in (place / "lock").read_text()

    with embedded_postgres(place) as server:
        assert ask(server.url, "SELECT 1") == 1


@pytest.mark.parametrize("stranger", ["thesis.txt", "lock", "PG_VERSION"])
def test_a_directory_with_other_files_is_left_alone(folder: Path, stranger: str) -> None:
    directory = folder / "documents"
    directory.mkdir()
    (directory / stranger).write_text("mine")
    (directory / "notes").write_text("mine too")

    with pytest.raises(DataDirectoryForeign, match="not ours and not empty") as caught:
        embedded_postgres(directory).__enter__()

    assert caught.value.owner is None
    assert sorted(path.name for path in directory.iterdir()) == sorted([stranger, "notes"])


def test_a_file_is_not_a_directory(folder: Path) -> None:
    (folder / "file").touch()

    with pytest.raises(DataDirectoryUnusable, match="not a directory"):
        embedded_postgres(folder / "file").__enter__()


def test_data_that_are_not_those_of_a_postgres_are_left_alone(place: Path) -> None:
    with rewritten(place / "postgres" / "PG_VERSION", None):
        with pytest.raises(DataDirectoryForeign, match="not those of a Postgres"):
            embedded_postgres(place).__enter__()

        assert (place / "postgres" / "global").is_dir()


@pytest.mark.parametrize("version", ["19", "15"])
def test_data_of_another_major_version_are_left_alone(place: Path, version: str) -> None:
    expected = f"PostgreSQL {version}; the embedded server is PostgreSQL 18"

    with (
        rewritten(place / "postgres" / "PG_VERSION", f"{version}\n"),
        pytest.raises(WrongServerVersion, match=expected) as caught,
    ):
        embedded_postgres(place).__enter__()

    assert (caught.value.found, caught.value.expected) == (version, "18")
    assert not is_running(place)


def test_a_server_that_does_not_start_is_quoted_and_leaves_nothing_behind(place: Path) -> None:
    with rewritten(place / "postgres" / "postgresql.auto.conf", "wal_level = bogus\n"):
        with pytest.raises(ServerNotStarted, match="it ended with status 1") as caught:
            embedded_postgres(place).__enter__()

        assert 'invalid value for parameter "wal_level": "bogus"' in caught.value.log_tail
        assert caught.value.log_path == place / "postgres.log"
        assert eventually(lambda: not is_running(place))


def test_a_server_that_is_not_ready_in_time_is_an_error_and_is_stopped(place: Path) -> None:
    with pytest.raises(ServerNotStarted, match="within 0 s"):
        embedded_postgres(place, start_timeout_s=0).__enter__()

    assert eventually(lambda: not is_running(place))


def test_data_that_somebody_elses_server_runs_on_are_left_to_it(place: Path) -> None:
    home = choose_home(place)
    other = home.account.is_other
    stranger = subprocess.Popen(
        server_command(find_installation(), home, home.data),
        user=home.account.uid if other else None,
        extra_groups=[] if other else None,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        assert eventually((home.data / ".s.PGSQL.5432").exists)

        with pytest.raises(DataDirectoryInUse, match=rf"kill -INT {stranger.pid}\)") as caught:
            embedded_postgres(place).__enter__()

        assert caught.value.pid == stranger.pid
        assert stranger.poll() is None
    finally:
        stranger.send_signal(signal.SIGINT)
        stranger.wait()


@pytest.mark.parametrize("name", ["n" * 150, 'a, "b"', "space d and ünïcode"])
def test_the_path_may_be_long_or_strange(place: Path, folder: Path, name: str) -> None:
    with moved(place, folder / name) as directory:
        with embedded_postgres(directory) as server:
            sockets = Path((directory / "postgres" / "postmaster.pid").read_text().splitlines()[4])
            assert ask(server.url, "SELECT 1") == 1
            assert sockets.stat().st_mode & 0o777 == 0o700
            assert server.data_dir == directory

        assert sockets == directory / "postgres" or not sockets.exists()


def test_a_socket_that_fits_nowhere_is_an_error_that_names_the_places(folder: Path) -> None:
    long = folder / ("n" * 150)
    long.mkdir()

    with pytest.raises(SocketPathTooLong, match="103 bytes") as caught:
        choose_socket_dir(Home(path=long, account=own_account()), parents=(long,))

    assert caught.value.tried == (long / "postgres", long)


@as_root
@pytest.mark.parametrize("size", ["64k", "8m"])
def test_a_full_disk_is_called_a_full_disk(folder: Path, size: str) -> None:
    with small_disk(folder / "disk", size) as disk, pytest.raises(DiskFull, match="No space left on device") as caught:
        embedded_postgres(disk / ".leasehold").__enter__()

    assert caught.value.hint is not None
    assert "Free some space" in caught.value.hint


@as_root
def test_a_disk_that_is_full_only_now_is_called_a_full_disk(folder: Path, place: Path) -> None:
    with small_disk(folder / "disk", "60m") as disk:
        subprocess.run(["cp", "-a", place, disk], check=True)
        with pytest.raises(OSError) as full, (disk / "filling").open("wb") as filling:
            filling.write(b"0" * 60_000_000)
        assert full.value.errno == errno.ENOSPC

        with pytest.raises(DiskFull), embedded_postgres(disk / place.name) as server:
            ask(server.url, "CREATE TABLE wide AS SELECT 1 FROM generate_series(1, 1)")


@contextmanager
def small_disk(where: Path, size: str) -> Generator[Path]:
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", where], check=False)
    if mounted.returncode:
        pytest.skip("root may not mount here")
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


# -- ordinary users and root ------------------------------------------------------------------------------------------


def test_an_ordinary_user_runs_the_server_as_themselves(folder: Path, someone: Account) -> None:
    directory = directory_of(folder, someone)

    with user_of(directory, someone, python_for(someone)) as user:
        told = user.told()
        assert told["data_dir"] == str(directory)
        assert ask(told["url"], "SELECT 1") == 1
        assert postmaster_of(directory).uids().effective == someone.uid
        assert user.leave() == 0

    assert not is_running(directory)


def test_a_directory_that_may_not_be_written_is_unusable(folder: Path, someone: Account) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o555)

    with user_of(closed / ".leasehold", someone, python_for(someone)) as user:
        told = user.told()

    assert told["error"] == "DataDirectoryUnusable"
    assert "Permission denied" in told["text"]


@as_root
def test_a_user_without_a_name_is_told_that_postgres_needs_one(folder: Path) -> None:
    nameless = Account(uid=54321, gid=54321, name=None)
    directory = directory_of(folder, nameless)

    with user_of(directory, nameless, python_for(nameless)) as user:
        told = user.told()

    assert told["error"] == "NoServerAccount"
    assert "user id 54321 has no entry" in told["text"]


@as_root
def test_two_users_of_one_machine_have_servers_of_their_own_and_cannot_reach_each_others(
    place: Path, folder: Path
) -> None:
    ada, bob = account_named("nobody"), account_named("daemon")
    python = python_for(ada, bob)
    adas, bobs = copied_for(ada, place, folder), copied_for(bob, place, folder)

    with user_of(adas, ada, python) as first, user_of(bobs, bob, python) as second:
        started = {ask(user.told()["url"], "SELECT pg_postmaster_start_time()") for user in (first, second)}
        assert len(started) == 2
        assert not can_reach(bob, adas / "postgres", data_dir=adas)
        assert stat.S_IMODE((adas / "postgres" / ".s.PGSQL.5432").stat().st_mode) == 0o700
        first.leave()
        second.leave()

    (folder / f"of-{ada}").chmod(0o777)
    with user_of(adas, bob, python) as intruder:
        told = intruder.told()
    assert (told["error"], told["owner"]) == ("DataDirectoryForeign", "nobody")


@as_root
def test_root_joins_the_server_of_an_ordinary_user_and_leaves_everything_theirs(place: Path, folder: Path) -> None:
    ada = account_named("nobody")
    directory = copied_for(ada, place, folder)
    (directory / "postgres.log").unlink()

    with user_of(directory, ada, python_for(ada)) as user:
        url = user.told()["url"]
        with embedded_postgres(directory) as server:
            assert server.url == url
            assert user.leave() == 0
            assert ask(server.url, "SELECT 1") == 1
    assert not is_running(directory)

    with embedded_postgres(directory):
        assert postmaster_of(directory).uids().effective == ada.uid
    assert {path.lstat().st_uid for path in directory.rglob("*")} == {ada.uid}


@as_root
def test_root_runs_the_server_as_a_dedicated_user_whom_nobody_else_can_reach(place: Path) -> None:
    with embedded_postgres(place):
        assert postmaster_of(place).username() == "leasehold"
        assert {process.uids().effective for process in processes_of(place)} == {dedicated_account(place).uid}
        assert not can_reach(account_named("nobody"), place / "postgres", data_dir=place)


@as_root
def test_what_root_made_is_refused_to_an_ordinary_user(place: Path) -> None:
    nobody = account_named("nobody")

    with user_of(place, nobody, python_for(nobody)) as user:
        told = user.told()

    assert (told["error"], told["owner"]) == ("DataDirectoryForeign", "root")
    assert 'Run as user "root"' in told["text"]


@as_root
def test_data_that_the_servers_user_cannot_reach_are_kept_elsewhere_and_found_again(folder: Path) -> None:
    folder.chmod(0o700)
    directory = folder / ".leasehold"
    home = choose_home(directory)
    try:
        for answer in ("CREATE TABLE kept AS SELECT 42 AS answer", "SELECT answer FROM kept"):
            with embedded_postgres(directory) as server:
                found = ask(server.url, answer)
                assert server.data_dir == home.path
                assert server.notice == (
                    f'The data is in {home.path}, because the server\'s user "leasehold" cannot reach {directory}.'
                )
        assert found == 42
    finally:
        discard(home.path)

    assert home.path.parent == STATE_DIR
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not directory.exists()


@as_root
def test_data_that_have_become_unreachable_are_not_replaced_by_new_ones(place: Path) -> None:
    place.parent.chmod(0o700)
    try:
        with pytest.raises(DataDirectoryUnusable, match='"leasehold" cannot reach it any more'):
            embedded_postgres(place).__enter__()
    finally:
        place.parent.chmod(0o755)


@as_root
def test_binaries_that_the_servers_user_cannot_reach_are_copied_once(folder: Path) -> None:
    wheel = find_installation().root.parent
    hidden = folder / "hidden"
    for part in (f"{wheel.name}/{find_installation().root.name}", f"{wheel.name}.libs"):
        shutil.copytree(wheel.parent / part, hidden / part)
    hidden.chmod(0o700)
    account = dedicated_account(folder)

    found = reachable_installation(Installation(root=hidden / wheel.name / "pginstall18"), account, folder)
    try:
        again = reachable_installation(Installation(root=hidden / wheel.name / "pginstall18"), account, folder)

        assert again == found
        for program in ("postgres", "initdb"):
            ended = run_as(account, [str(found.program(program)), "--version"], timeout_s=10)
            assert "(PostgreSQL) 18" in ended.stdout
        assert stat.S_IMODE(hidden.stat().st_mode) == 0o700
    finally:
        discard(found.root.parents[1])


# -- what an installation has -----------------------------------------------------------------------------------------


def test_statistics_of_statements_are_loaded_only_where_the_installation_has_them(folder: Path) -> None:
    home = Home(path=folder, account=own_account())
    installation = Installation(root=folder)
    without = server_command(installation, home, folder)

    for file in ("share/postgresql/extension/pg_stat_statements.control", "lib/postgresql/pg_stat_statements.so"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).touch()

    assert not any("shared_preload_libraries" in part for part in without)
    assert "shared_preload_libraries=pg_stat_statements" in server_command(installation, home, folder)
