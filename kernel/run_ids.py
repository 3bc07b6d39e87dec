"""What callers may give as the id of a run.

Separate from how ids are made (`kernel.model.ids`), because this is about people's values and their errors. It must not
know whether such a run exists.
"""

from __future__ import annotations

from kernel.errors import InvalidCommand
from kernel.model.ids import is_run_id

__all__ = ["checked_run_id"]


def checked_run_id(run_id: object) -> str:
    """The id, when a run could have it. Raises: InvalidCommand."""
    if not is_run_id(run_id):
        hint = "It is the id that `start` and `leasehold runs` give."
        raise InvalidCommand(f"run_id is no id of a run: {run_id!r:.60}.", field="run_id", hint=hint)
    return run_id
