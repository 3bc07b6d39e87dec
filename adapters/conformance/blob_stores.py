"""The promises of a `BlobStore`: bytes under keys, whatever the keys look like and wherever the bytes lie.

Every check wants a store that is empty, and leaves something in it: give each a folder or a prefix of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from anyio import create_task_group

from adapters.conformance.promises import BrokenPromise, expect, expect_raised
from kernel.errors import BlobNotFound, PayloadRefused
from kernel.ports.blobs import BlobStore

__all__ = ["BAD_KEYS", "BLOB_STORE_CHECKS", "ODD_KEYS", "BlobStoreCheck"]

BlobStoreCheck: TypeAlias = Callable[[BlobStore], Awaitable[None]]

ODD_KEYS = (
    "a/b",
    "a/b/c",
    "Runs/A.JSON",
    "runs/a.json",
    "my run/an output .json",
    "..a/...b/c..",
    "a.dir/b.blob/c.part/.blob",
    "100%/%2f/%%",
    "übersicht/漢字/😀",
    'con/a:b*c?"<>|\\d',
    "a_b%c*d[e]?",
    "x" * 300 + "/y",
    "漢" * 100,
    "a/" * 349 + "zz",
)
"""Keys that stores are wont to get wrong; all of them may be used."""

BAD_KEYS = ("", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b", "a\nb", "\ud800", "a" * 701)
"""Keys that no store may take: `adapters.blob_keys.checked_key` refuses them."""


async def check_what_was_put_is_got(store: BlobStore) -> None:
    """`get` gives what `put` was given, and `has` knows it."""
    await store.put("runs/1/output.json", b'{"a":1}')

    expect("what was put is got", await store.get("runs/1/output.json"), b'{"a":1}')
    expect("what was put is there", await store.has("runs/1/output.json"), expected=True)


async def check_what_was_not_put_is_not_found(store: BlobStore) -> None:
    """A key that is the beginning of another is not that other; `BlobNotFound` names the key."""
    await store.put("runs/1/output.json", b"")

    await _expect_absent(store, "runs/1/output")
    expect("a folder is not a blob", await store.has("runs/1"), expected=False)


async def check_any_bytes_come_back_the_same(store: BlobStore) -> None:
    """None at all, every byte there is, and five megabytes."""
    for data in (b"", bytes(range(256)), b"x" * 5_000_000):
        await store.put("a", data)
        expect(f"{len(data)} bytes come back the same", await store.get("a") == data, expected=True)


async def check_putting_again_replaces(store: BlobStore) -> None:
    """Nothing remains of what was longer."""
    await store.put("a", b"long before")
    await store.put("a", b"after")

    expect("putting again replaces", await store.get("a"), b"after")
    await _expect_listed(store, "", ["a"])


async def check_what_was_deleted_is_gone(store: BlobStore) -> None:
    """And nothing else is."""
    await store.put("a/b", b"1")
    await store.put("a/c", b"2")

    await store.delete("a/b")

    await _expect_absent(store, "a/b")
    await _expect_listed(store, "", ["a/c"])


async def check_deleting_what_is_not_there_is_no_error(store: BlobStore) -> None:
    """Neither before a first `put` nor after a `delete`."""
    await store.delete("a/b")
    await store.put("a/b", b"1")
    await store.delete("a/b")

    await store.delete("a/b")

    await _expect_listed(store, "", [])


async def check_a_key_can_be_put_again_after_it_was_deleted(store: BlobStore) -> None:
    """A deletion leaves nothing behind that wins over what comes after it."""
    await store.put("a/b", b"1")
    await store.delete("a/b")

    await store.put("a/b", b"2")

    expect("a deleted key can be put again", await store.get("a/b"), b"2")


async def check_odd_keys_live_side_by_side(store: BlobStore) -> None:
    """Keys that differ in case, or of which one is a folder of the other, are different keys."""
    for key in ODD_KEYS:
        await store.put(key, key.encode())

    for key in ODD_KEYS:
        expect(f"{key!r} is a key of its own", await store.get(key), key.encode())
    await _expect_listed(store, "", sorted(ODD_KEYS))


async def check_odd_keys_can_be_listed_and_deleted(store: BlobStore) -> None:
    """Each is found by itself, and by all but its last character."""
    for key in ODD_KEYS:
        await store.put(key, b"1")
        await _expect_listed(store, key, [key])
        await _expect_listed(store, key[:-1], [key])

        await store.delete(key)

        await _expect_listed(store, "", [])


async def check_a_bad_key_is_refused(store: BlobStore) -> None:
    """`PayloadRefused` with the field "key"; nothing is stored."""
    for key in BAD_KEYS:
        refused = await expect_raised(f"{key!r} is refused", PayloadRefused, partial(store.put, key, b"1"))
        expect(f"the refusal of {key!r} names the field", refused.field, "key")

    await _expect_listed(store, "", [])


async def check_nothing_is_under_a_bad_key(store: BlobStore) -> None:
    """Asking for it or deleting it is no mistake, and finds nothing."""
    await store.put("a/b", b"1")

    for key in BAD_KEYS:
        await _expect_absent(store, key)
        await store.delete(key)

    await _expect_listed(store, "", ["a/b"])


async def check_keys_are_listed_by_their_beginning_and_in_order(store: BlobStore) -> None:
    """By the beginning of the text, which need not end at a slash; case counts."""
    keys = ["runs/10/a", "runs/1/b", "runs/1/a", "runs/1", "rums/1/a", "runs/1/a/x", "runs/2/a", "Runs/1/a"]
    for key in keys:
        await store.put(key, b"")

    await _expect_listed(store, "runs/1/", ["runs/1/a", "runs/1/a/x", "runs/1/b"])
    await _expect_listed(store, "runs/1", ["runs/1", "runs/1/a", "runs/1/a/x", "runs/1/b", "runs/10/a"])
    await _expect_listed(store, "runs/1/a", ["runs/1/a", "runs/1/a/x"])
    await _expect_listed(store, "", sorted(keys))


async def check_a_beginning_that_no_key_has_finds_nothing(store: BlobStore) -> None:
    """A pattern, a way out of the folder and what cannot be a key are texts like others."""
    await store.put("runs/1/a", b"1")

    for prefix in ("runs/3", "%", "_", "run_/", "../", "/", "runs//", "a\0", "\ud800", "*"):
        await _expect_listed(store, prefix, [])


async def check_the_order_is_that_of_the_characters(store: BlobStore) -> None:
    """By code point, whatever the locale of the store."""
    keys = ["a", "B", "b", "A", "a-b", "a/b", "ab", "Z", "é", "z", "漢", "😀", "_"]
    for key in keys:
        await store.put(key, b"")

    await _expect_listed(store, "", sorted(keys))


async def check_many_puts_at_once_all_land(store: BlobStore) -> None:
    """Forty keys in seven folders that do not exist yet."""
    keys = [f"runs/{n % 7}/{n}" for n in range(40)]

    async with create_task_group() as group:
        for key in keys:
            group.start_soon(store.put, key, key.encode())

    await _expect_listed(store, "runs/", sorted(keys))
    for key in keys:
        expect("what was put beside others is got", await store.get(key), key.encode())


async def check_of_puts_of_one_key_at_once_one_stays_whole(store: BlobStore) -> None:
    """Whichever it is, and never a mixture."""
    values = [bytes([n]) * 100_000 for n in range(8)]

    async with create_task_group() as group:
        for value in values:
            group.start_soon(store.put, "a", value)

    found = await store.get("a")
    if found not in values:
        raise BrokenPromise("one of the values stays whole", expected="100000 equal bytes", found=found)


async def check_putting_and_deleting_in_one_folder_at_once_loses_nothing(store: BlobStore) -> None:
    """A folder that becomes empty may go, but not together with what is just being put into it."""

    async def come_and_go(n: int) -> None:
        for _ in range(10):
            await store.put(f"deep/folder/{n}", b"1")
            await store.delete(f"deep/folder/{n}")
        await store.put(f"deep/folder/{n}", b"2")

    async with create_task_group() as group:
        for n in range(6):
            group.start_soon(come_and_go, n)

    await _expect_listed(store, "deep/", [f"deep/folder/{n}" for n in range(6)])


async def _expect_listed(store: BlobStore, prefix: str, keys: list[str]) -> None:
    expect(f"list({prefix!r}) gives the keys that begin so, in order", list(await store.list(prefix)), keys)


async def _expect_absent(store: BlobStore, key: str) -> None:
    expect(f"nothing is under {key!r}", await store.has(key), expected=False)
    missing = await expect_raised(f"getting {key!r} fails", BlobNotFound, partial(store.get, key))
    expect("BlobNotFound names the key", missing.key, key)


BLOB_STORE_CHECKS: tuple[BlobStoreCheck, ...] = (
    check_what_was_put_is_got,
    check_what_was_not_put_is_not_found,
    check_any_bytes_come_back_the_same,
    check_putting_again_replaces,
    check_what_was_deleted_is_gone,
    check_deleting_what_is_not_there_is_no_error,
    check_a_key_can_be_put_again_after_it_was_deleted,
    check_odd_keys_live_side_by_side,
    check_odd_keys_can_be_listed_and_deleted,
    check_a_bad_key_is_refused,
    check_nothing_is_under_a_bad_key,
    check_keys_are_listed_by_their_beginning_and_in_order,
    check_a_beginning_that_no_key_has_finds_nothing,
    check_the_order_is_that_of_the_characters,
    check_many_puts_at_once_all_land,
    check_of_puts_of_one_key_at_once_one_stays_whole,
    check_putting_and_deleting_in_one_folder_at_once_loses_nothing,
)
