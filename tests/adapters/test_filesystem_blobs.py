"""What only a store on a file system can get wrong: paths, half-written files, full disks."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from anyio import create_task_group, to_process

from adapters.blobs import FilesystemBlobStore
from kernel.errors import BlobNotFound, PayloadRefused, Unavailable

pytestmark = pytest.mark.anyio

HOSTILE = ["../outside", "a/../../outside", "/etc/outside", "..", "~/outside", "C:\\outside", "a/%2e%2e/outside"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("key", HOSTILE)
async def test_no_key_leads_out_of_the_folder(folder: Path, tmp_path: Path, key: str) -> None:
    with suppress(PayloadRefused):  # refused or kept inside: both are safe
        await FilesystemBlobStore(folder).put(key, b"1")

    assert [path for path in files_in(tmp_path) if not path.is_relative_to(folder)] == []
    assert all(part not in {"..", "."} for path in files_in(folder) for part in path.relative_to(folder).parts)


async def test_a_key_stays_readable_in_the_file_system(folder: Path) -> None:
    await FilesystemBlobStore(folder).put("runs/hello/output.json", b"{}")

    assert [path.relative_to(folder).as_posix() for path in files_in(folder)] == ["runs.dir/hello.dir/output.json.blob"]


async def test_names_differ_where_upper_and_lower_case_do_not(folder: Path) -> None:
    store = FilesystemBlobStore(folder)
    for key in ("a/Output", "a/output", "A/output"):
        await store.put(key, b"1")

    assert len({str(path).lower() for path in files_in(folder)}) == 3


async def test_two_stores_on_one_folder_share_their_blobs(folder: Path) -> None:
    await FilesystemBlobStore(folder).put("a/b", b"1")

    assert await FilesystemBlobStore(str(folder)).get("a/b") == b"1"


async def test_another_process_reads_what_was_put(folder: Path) -> None:
    await FilesystemBlobStore(folder).put("a/b", b"1")

    assert await to_process.run_sync(_read_in_another_process, str(folder)) == b"1"


def _read_in_another_process(folder: str) -> bytes:
    import anyio

    return anyio.run(FilesystemBlobStore(folder).get, "a/b")


async def test_a_reader_never_sees_half_a_blob(folder: Path) -> None:
    store = FilesystemBlobStore(folder)
    values = [bytes([n]) * 2_000_000 for n in (1, 2)]
    await store.put("a", values[0])
    done = False

    async def read() -> None:
        while not done:
            assert await store.get("a") in values

    async with create_task_group() as group:
        group.start_soon(read)
        for n in range(10):
            await store.put("a", values[n % 2])
        done = True


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["full", "over quota"])
async def test_a_full_disk_is_named_and_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = FilesystemBlobStore(folder)
    await store.put("a", b"before")

    def no_space(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", no_space)
        with pytest.raises(Unavailable, match="full") as refused:
            await store.put("a", b"after")

    assert refused.value.field == "blobs"
    assert str(folder) in str(refused.value)
    assert await store.get("a") == b"before"
    assert len(files_in(folder)) == 1
    await store.put("a", b"after")
    assert await store.get("a") == b"after"


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "blobs"
    in_the_way.write_text("a file, not a folder")
    store = FilesystemBlobStore(in_the_way)

    with pytest.raises(Unavailable) as refused:
        await store.put("a", b"1")

    assert str(in_the_way) in str(refused.value)
    with pytest.raises(Unavailable):
        await store.get("a")


async def test_a_folder_that_is_not_there_yet_holds_nothing(folder: Path) -> None:
    store = FilesystemBlobStore(folder)

    assert list(await store.list("")) == []
    assert not await store.has("a")
    with pytest.raises(BlobNotFound):
        await store.get("a")
    assert not folder.exists()


async def test_a_file_left_by_a_crash_is_no_blob(folder: Path) -> None:
    store = FilesystemBlobStore(folder)
    await store.put("a", b"1")
    (folder / "incoming" / "0123456789").write_bytes(b"half")
    (folder / "README.txt").write_text("somebody's note")

    assert list(await store.list("")) == ["a"]


async def test_deleting_the_last_blob_of_a_folder_tidies_up(folder: Path) -> None:
    store = FilesystemBlobStore(folder)
    await store.put("runs/1/output", b"1")
    await store.put("runs/2/output", b"2")

    await store.delete("runs/1/output")

    assert sorted(path.name for path in (folder / "runs.dir").iterdir()) == ["2.dir"]


async def test_a_check_makes_the_folder_and_leaves_no_blob(tmp_path: Path) -> None:
    store = FilesystemBlobStore(tmp_path / "deep" / "blobs")

    await store.check()

    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["blobs", "incoming"]
    assert await store.list("") == []


async def test_a_check_finds_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file, not a folder")

    with pytest.raises(Unavailable, match="LEASEHOLD_BLOB_URL"):
        await FilesystemBlobStore(tmp_path / "blobs").check()
