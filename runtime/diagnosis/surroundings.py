"""Checks of what lies around the database: the store of large payloads, and the collectors of telemetry."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from anyio import to_thread

from kernel.ports.blobs import BlobStore
from kernel.ports.diagnosis import Check, Finding
from runtime.blob_urls import BlobBucket, BlobFolder, blob_place
from runtime.bootstrap import open_blobs
from runtime.config import Settings
from runtime.diagnosis.collectors import collector_checks

__all__ = ["surrounding_checks"]

BYTES_LEAST = 100_000_000


def surrounding_checks(settings: Settings, environment: Mapping[str, str] | None = None) -> Sequence[Check]:
    """The checks that need no database; large payloads in the database are checked with it."""
    given = os.environ if environment is None else environment
    checks: list[Check] = []
    if settings.blob_url is not None:
        checks.append(Check("blobs", lambda: _check_blobs(settings)))
    return [*checks, *collector_checks(given)]


# -- large payloads ----------------------------------------------------------------------------------------------------


async def _check_blobs(settings: Settings) -> Finding:
    assert settings.blob_url is not None
    match blob_place(settings.blob_url):
        case BlobFolder(path):
            return await to_thread.run_sync(_check_folder, path)
        case BlobBucket() as place:
            blobs = open_blobs(settings)
            assert blobs is not None
            return await _check_bucket(blobs, f"s3://{place.bucket}/{place.prefix}")


def _check_folder(folder: Path) -> Finding:
    """Whether blobs can be written there; the folder itself is made with the first one."""
    standing = next(path for path in (folder, *folder.parents) if path.exists())
    figures = {"place": str(folder), "exists": standing == folder}
    if not standing.is_dir():
        return Finding(
            status="problem",
            found=f"Large payloads are to go to {folder}, but {standing} is no folder.",
            advice="Name another folder in LEASEHOLD_BLOB_URL.",
            figures=figures,
        )
    if not os.access(standing, os.W_OK | os.X_OK):
        return Finding(
            status="problem",
            found=f"Large payloads are to go to {folder}, but this user may not write in {standing}.",
            advice="Let the user of the processes write there, or name another folder in LEASEHOLD_BLOB_URL.",
            figures=figures,
        )
    free = shutil.disk_usage(standing).free
    found = f"Large payloads go to {folder}, with {free / 1e9:,.1f} GB free."
    if free < BYTES_LEAST:
        return Finding(
            status="problem", found=found, advice="Free some space.", figures={**figures, "free_bytes": free}
        )
    if standing != folder:
        return Finding(
            status="warning",
            found=f"{found} The folder is not there yet.",
            advice="The first payload makes it. Where others should share it, is it mounted?",
            figures={**figures, "free_bytes": free},
        )
    return Finding(status="ok", found=found, figures={**figures, "free_bytes": free})


async def _check_bucket(blobs: BlobStore, place: str) -> Finding:
    begun = time.perf_counter()
    await blobs.has("leasehold/doctor")
    took_s = time.perf_counter() - begun
    return Finding(
        status="ok",
        found=f"Large payloads go to {place}, which answers within {took_s * 1000:.0f} ms. (Nothing was written.)",
        figures={"place": place, "answer_s": took_s},
    )
