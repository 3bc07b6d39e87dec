"""The shapes of identifiers, and the tokens that are derived rather than drawn.

Run ids are UUIDv7 texts minted from the database's clock, so that they sort by creation and fall into the partition
of their month. Byte 7 of a run id is reserved as a shard number and is 0. Append ids are random UUIDs. Attempt tokens
are a hash of the append that starts the attempt: deciding the same append twice gives the same token.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TypeGuard

__all__ = ["RUN_ID_SKEW_MAX", "attempt_token", "is_run_id", "minted_at", "run_id_from"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

RUN_ID_SKEW_MAX = timedelta(hours=1)
"""How far a new run's id may be off the database's clock; further away it would land in a foreign partition."""


def run_id_from(at: datetime, random_bytes: bytes) -> str:
    """The UUIDv7 of a moment (RFC 9562, 5.7) with ten given random bytes, of which the shard number takes one."""
    # Whole numbers: a float of today's seconds cannot tell one millisecond from the next.
    milliseconds = (at - _EPOCH) // timedelta(milliseconds=1)
    raw = bytearray(milliseconds.to_bytes(6, "big") + random_bytes[:10])
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[7] = 0
    raw[8] = 0x80 | (raw[8] & 0x3F)
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def minted_at(run_id: str) -> datetime:
    """The moment in a run id, to the millisecond, aware UTC."""
    return _EPOCH + timedelta(milliseconds=int(run_id[:8] + run_id[9:13], 16))


def is_run_id(value: object) -> TypeGuard[str]:
    """Whether it is the text of a whole run id in its canonical, lower-case form."""
    return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None


def attempt_token(append_id: str, seq: int) -> str:
    """The token of the attempt that event `seq` of append `append_id` starts; 24 hexadecimal digits."""
    return hashlib.blake2b(f"{append_id}/{seq}".encode(), digest_size=12, person=b"attempt").hexdigest()
