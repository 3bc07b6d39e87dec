"""A run as it is now, from the store: its head, its folded history, and on demand the payloads that it shows.

Apart from `RunHandle`, because whoever has just acted on a run wants to say what it is without reading a payload: the
act is done, wherever its payloads are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kernel.journal import fold_stored, inline_bodies
from kernel.ports.persistence import LogLine
from kernel.unreadable import Unreadable, fetch_shown
from runtime.info import RunInfo, run_info, wanted_bodies

if TYPE_CHECKING:
    from runtime.client import Client

__all__ = ["describe_run", "went_on"]


async def describe_run(client: Client, run_id: str, *, payloads: bool = True) -> RunInfo:
    """What is known of the run now, with its stages; without `payloads` input and outputs are None.

    A payload that the blob store does not give is shown as `Unreadable`. Raises: RunNotFound, CorruptHistory,
    Unavailable.
    """
    persistence = client.storage.persistence
    while True:
        stored = await persistence.load(run_id, bodies=payloads)
        state = fold_stored(stored)
        wanted = wanted_bodies(state) if payloads else []
        found = await fetch_shown(run_id, wanted, inline_bodies(stored.rows), client.storage.blobs)
        is_lost = any(isinstance(value, Unreadable) and value.is_lost for value in found.values())
        if not is_lost or not await went_on(client, run_id, stored.head.seq):
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


async def went_on(client: Client, run_id: str, seq: int) -> bool:
    """Whether the run has moved since: what was to be read of it may have been discarded by a rerun."""
    head = (await client.storage.persistence.heads([run_id])).get(run_id)
    return head is not None and head.seq > seq
