"""Leasehold's runtime: what executes workflows, and what starts and observes them.

`App` lists workflows; `Supervisor` executes them and `Client` only starts and observes; both are async context
managers for any anyio program. `python -m runtime` (or `leasehold`) is the same from a terminal.
"""

from runtime._interrupts import import_began, import_ended

import_began()

from runtime._siblings import check_siblings  # noqa: E402 - an interrupt is expected from here on

check_siblings()

from kernel import RunCancelled, RunFailed  # noqa: E402 - only now is it certain whose kernel this is
from runtime.app import App  # noqa: E402
from runtime.client import Client, Page  # noqa: E402
from runtime.config import Settings  # noqa: E402
from runtime.info import ArtifactInfo, RunInfo, StageInfo  # noqa: E402
from runtime.job_messages import JobMessage, JobResult  # noqa: E402
from runtime.run_and_wait import run_and_wait  # noqa: E402
from runtime.run_handle import RunHandle  # noqa: E402
from runtime.serverless import ServerlessHost  # noqa: E402
from runtime.supervisor import Stats, Supervisor  # noqa: E402

import_ended()

__distribution__ = "leasehold"

__all__ = [
    "App",
    "ArtifactInfo",
    "Client",
    "JobMessage",
    "JobResult",
    "Page",
    "RunCancelled",
    "RunFailed",
    "RunHandle",
    "RunInfo",
    "ServerlessHost",
    "Settings",
    "StageInfo",
    "Stats",
    "Supervisor",
    "run_and_wait",
]
