"""What those who watch are told, where no port of the kernel's is theirs to wrap.

Separate from the instruments, so that an adapter which tells them imports nothing of OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kernel.ports.persistence import Append

__all__ = ["BatchObserver"]

BatchObserver = Callable[[Sequence[Append], int, int, Exception | None], None]
"""Told of every batch of appends that was sent to the database, once per sending, after its answer.

The appends in the order of their run ids; when the batch was sent and when it was answered, in nanoseconds since the
epoch; and what the driver raised (None: an answer came, which may refuse some of them). A batch that is halved or sent
again is told again. It is called between two batches, in the thread of the driver's event loop, which under trio is
not the caller's: it must be quick, never wait, and touch nothing that belongs to a task. What it raises is logged.
"""
