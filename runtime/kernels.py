"""The kernels of a process that executes, over its open store: one for commands, and one for the attempts of bodies.

Everybody who executes has both, with actors or without; what differs is how journals are kept and who is told.
"""

from __future__ import annotations

from kernel.dispatch import Kernel, Middleware
from kernel.payloads import Limits
from kernel.ports.blobs import BlobStore
from kernel.ports.executor import Executor
from kernel.ports.journals import Journals
from kernel.ports.registry import WorkflowRegistry
from kernel.ports.sinks import EventSink
from runtime.bootstrap import Storage
from runtime.patience import PatientBlobs, PatientJournals
from runtime.side_by_side import SideBySide

__all__ = ["host_kernel", "job_kernel"]


def host_kernel(
    storage: Storage,
    registry: WorkflowRegistry,
    executor: Executor,
    limits: Limits,
    *,
    sinks: EventSink,
    journals: Journals,
    blobs: BlobStore | None = None,
    around: Middleware | None = None,
) -> Kernel:
    """The kernel for every command."""
    return Kernel(
        persistence=storage.persistence,
        blob_store=blobs or storage.blobs,
        clock=storage.clock,
        ids=storage.ids,
        registry=registry,
        executor=executor,
        scheduler=storage.scheduler,
        event_sink=sinks,
        journals=journals,
        limits=limits,
        concurrency=SideBySide(),
        job_transport=storage.jobs,
        around=around,
    )


def job_kernel(
    storage: Storage,
    registry: WorkflowRegistry,
    executor: Executor,
    limits: Limits,
    *,
    journals: Journals,
    blobs: BlobStore | None = None,
    around: Middleware | None = None,
) -> Kernel:
    """The kernel that executes jobs: it waits for a store that is away rather than lose what a body has done."""
    return Kernel(
        persistence=storage.persistence,
        blob_store=blobs or PatientBlobs(storage.blobs),
        clock=storage.clock,
        ids=storage.ids,
        registry=registry,
        executor=executor,
        journals=PatientJournals(journals),
        limits=limits,
        job_transport=storage.jobs,
        around=around,
    )
