"""Where a payload goes: beside its fact when small, into the blob store when large, nowhere when too large."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from kernel.errors import PayloadRefused
from kernel.model.attempts import Payload
from kernel.model.facts import BlobRef
from kernel.ports.blobs import BlobStore

__all__ = ["Limits", "blob_key", "place_payload", "put_blob"]


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
    """The key of a run's blob; `names` end with one that is written once, such as a token's."""
    return "/".join(("runs", workflow_id, run_id, *names))


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
