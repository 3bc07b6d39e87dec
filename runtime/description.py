"""A run as it is now, from the store: its head, its folded history, and on demand the payloads that it shows.

Apart from `RunHandle`, because whoever has just acted on a run wants to say what it is without reading a payload: the
act is done, wherever its payloads are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from kernel.errors import BlobNotFound
from kernel.journal import fetch_payloads, fold_stored, inline_bodies
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.persistence import LogLine, StoredHistory
from runtime.info import RunInfo, run_info, wanted_bodies

if TYPE_CHECKING:
    from runtime.client import Client

__all__ = ["describe_run", "went_on"]


async def describe_run(client: Client, run_id: str, *, payloads: bool = True) -> RunInfo:
    """What is known of the run now, with its stages; without `payloads` input and outputs are None.

    Raises: RunNotFound, CorruptHistory, Unavailable; with `payloads` BlobNotFound.
    """
    persistence = client.storage.persistence
    while True:
        stored = await persistence.load(run_id, bodies=payloads)
        state = fold_stored(stored)
        if not payloads:
            found: Mapping[Body, Any] = {}
            break
        try:
            found = await _payloads(client, stored, state)
        except BlobNotFound:
            if not await went_on(client, run_id, stored.head.seq):
                raise
        else:
            break
    reported: Mapping[str, LogLine] = {} if state.ended else await persistence.read_progress(run_id)
    has_jobs = not state.ended and (state.plan.has_queues or state.drive == "jobs")
    jobs = await client.storage.jobs.jobs_of(run_id) if has_jobs else None
    return run_info(
        stored.head,
        state,
        now=client.storage.clock.now(),
        live_workflows=await persistence.live_workflows(),
        payloads=found,
        progress=reported,
        jobs=jobs,
    )


async def _payloads(client: Client, stored: StoredHistory, state: RunState) -> Mapping[Body, Any]:
    inline = inline_bodies(stored.rows)
    found = await fetch_payloads(stored.head.run_id, wanted_bodies(state), inline, client.storage.blobs)
    return {body: from_json(data) for body, data in found.items()}


async def went_on(client: Client, run_id: str, seq: int) -> bool:
    """Whether the run has moved since: what was to be read of it may have been discarded by a rerun."""
    head = (await client.storage.persistence.heads([run_id])).get(run_id)
    return head is not None and head.seq > seq
