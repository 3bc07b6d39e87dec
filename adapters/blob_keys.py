"""Which keys a blob may have: the same in every store, so that a run does not depend on where its blobs lie.

Parts of a key come from outside (stage ids, names of artifacts, keys that stage bodies choose), so the check is the
one gate between them and whatever a store builds from a key. It knows no store.
"""

from __future__ import annotations

from kernel.errors import PayloadRefused

__all__ = ["KEY_BYTES_MAX", "checked_key"]

KEY_BYTES_MAX = 700
"""Escaped to a path it stays below 4096 bytes (3150 in the worst case, parts of one escaped byte each), and with the
prefix of a bucket below the 1024 bytes that S3 gives a name."""


def checked_key(key: str) -> str:
    """The key itself: parts separated by single slashes, none of them empty, `.` or `..`.

    Raises: PayloadRefused, naming the key and what is wrong with it.
    """
    reason = _wrong_with(key)
    if reason is not None:
        raise PayloadRefused(f"A blob under the key {key!r}", reason, field="key")
    return key


def _wrong_with(key: str) -> str | None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "the key contains a lone surrogate"
    if size == 0:
        return "the key is empty"
    if size > KEY_BYTES_MAX:
        return f"the key has {size} bytes, more than {KEY_BYTES_MAX}"
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        return "the key contains a control character"
    for part in key.split("/"):
        if part in {"", ".", ".."}:
            return f'the key has a part "{part}" between its slashes; parts must be names'
    return None
