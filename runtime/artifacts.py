"""Reading back what stages have kept beside their results.

The history names every artifact with its place and digest; the bytes lie in the blob store. A rerun discards those of
the stages that it does again, so what a history named a moment ago may be gone: then the history is asked again, and
says so by itself.
"""

from __future__ import annotations

from kernel.errors import ArtifactNotFound, BlobNotFound, StageNotFound
from kernel.journal import fetch_payloads, fold_stored
from kernel.model.facts import BlobRef
from kernel.model.stage import Body
from runtime.bootstrap import Storage

__all__ = ["read_artifact"]


async def read_artifact(storage: Storage, run_id: str, stage_id: str, name: str) -> bytes:
    """The artifact as it was stored: bytes as they were given, anything else as JSON.

    Raises: RunNotFound, StageNotFound, ArtifactNotFound; BlobNotFound when its bytes have been lost; Unavailable.
    """
    blob = await _find_blob(storage, run_id, stage_id, name)
    while True:
        body = Body(0, blob)
        try:
            return (await fetch_payloads(run_id, [body], {}, storage.blobs))[body]
        except BlobNotFound:
            found = await _find_blob(storage, run_id, stage_id, name)
            if found == blob:
                raise
            blob = found


async def _find_blob(storage: Storage, run_id: str, stage_id: str, name: str) -> BlobRef:
    state = fold_stored(await storage.persistence.load(run_id, bodies=False))
    stage = state.stages.get(stage_id)
    if stage is None:
        raise StageNotFound(stage_id, workflow_id=state.workflow_id, known=state.stages)
    blob = stage.artifacts.get(name)
    if blob is None:
        raise ArtifactNotFound(name, run_id=run_id, stage_id=stage_id, known=stage.artifacts)
    return blob
