"""Who is being cancelled: this task, or only something that a body was playing with?

A cancellation that is meant for the caller must never be swallowed, and an exception that merely looks like one must
not end the caller. With anyio's scopes the two can be told apart by asking; asyncio alone also knows cancellation
outside of scopes (`Task.cancel` by an application that embeds us), so it is asked too, when it is what runs here.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import anyio

from runtime.raised import leaves_of

__all__ = ["being_cancelled", "find_cancellation"]


def being_cancelled() -> bool:
    """Whether the current task is to stop: by an enclosing scope, or by a request to the task itself."""
    return anyio.current_effective_deadline() == -math.inf or _task_cancel_requested()


def find_cancellation(error: BaseException) -> BaseException | None:
    """The event loop's cancellation itself, or the first one inside a group; None when there is none."""
    kind = anyio.get_cancelled_exc_class()
    return next((leaf for leaf in leaves_of(error) if isinstance(leaf, kind)), None)


def _task_cancel_requested() -> bool:
    # Looked up, not imported: where nobody runs asyncio there is nothing to ask.
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # this thread runs another event loop
        return False
    return task is not None and task.cancelling() > 0
