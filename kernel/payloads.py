"""Where a payload goes: beside its fact when small, into the blob store when large, nowhere when too large."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from kernel.errors import PayloadRefused
from kernel.model.attempts import Payload
from kernel.model.facts import BlobRef
from kernel.ports.blobs import BlobStore

__all__ = ["Limits", "blob_key", "place_payload", "put_blob"]


PART_BYTES_MAX = 100
"""Ids may have 200 characters of any script, names of artifacts too; a key with three of them stays below 700 bytes."""

# What separates parts, what marks a cut one, and what no store takes. "%" itself, so that two names are two parts.
_NO_NAME = re.compile(r"[/%~\x00-\x1f\x7f]|^\.\.?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of what one run may store, and for how long an idempotency key is kept.

    Sizes are bytes of JSON; `history_events_max` counts facts. A run of a workflow that no process has known for
    `unknown_workflow_grace` fails; None: it waits for ever.
    """

    payload_inline_bytes_max: int = 16_384
    payload_bytes_max: int = 67_108_864
    history_events_max: int = 10_000
    idempotency_expiry: timedelta = timedelta(days=30)
    unknown_workflow_grace: timedelta | None = None


class PayloadPorts(Protocol):
    """What placing a payload needs."""

    @property
    def blobs(self) -> BlobStore:
        """Where large payloads go."""
        ...

    @property
    def limits(self) -> Limits:
        """What is large, and what is too large."""
        ...


def blob_key(workflow_id: str, run_id: str, *names: str) -> str:
    """The key of a run's blob; `names` end with one that is written once, such as a token's.

    Every name is one part of the key, whatever its text: long ones are cut, and made unique again by their digest.
    """
    return "/".join(("runs", _part(workflow_id), run_id, *map(_part, names)))


def _part(name: str) -> str:
    escaped = _NO_NAME.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)
    whole = escaped.encode()
    if len(whole) <= PART_BYTES_MAX:
        return escaped
    digest = hashlib.sha256(name.encode()).hexdigest()[:24]
    return f"{whole[: PART_BYTES_MAX - 25].decode(errors='ignore')}~{digest}"


async def place_payload(ports: PayloadPorts, data: bytes, *, key: str, what: str, field: str) -> Payload:
    """Keep a payload: itself when it may stand in the history, else the place of the blob that now holds it.

    Repeating it with the same key is harmless. Raises: PayloadRefused, naming `what`, when it exceeds the limit.
    """
    if len(data) <= min(ports.limits.payload_inline_bytes_max, ports.limits.payload_bytes_max):
        return data
    return await put_blob(ports, data, key=key, what=what, field=field)


async def put_blob(ports: PayloadPorts, data: bytes, *, key: str, what: str, field: str) -> BlobRef:
    """Store a blob, however small, and say where it is. Raises: PayloadRefused, as `place_payload`."""
    if len(data) > ports.limits.payload_bytes_max:
        reason = f"it has {len(data):,} bytes, more than the limit of {ports.limits.payload_bytes_max:,}"
        raise PayloadRefused(what, f"{reason} (payload_bytes_max)", field=field)
    await ports.blobs.put(key, data)
    return BlobRef(key=key, digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
