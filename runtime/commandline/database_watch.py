"""What `up` notices of an embedded database: that its server was restarted, and that its directory is gone.

Everything else that a database can suffer passes, and the supervisor waits for that. Separate from `serving`, because
it looks at the server and not at the supervisor.
"""

from __future__ import annotations

import anyio
from anyio import to_thread

from kernel.errors import Unavailable
from runtime.bootstrap import Storage
from telemetry.logs import EventLogger, get_logger

__all__ = ["until_gone"]

logger: EventLogger = get_logger("leasehold.up")

LOOK_S = 1.0


async def until_gone(storage: Storage) -> Unavailable:
    """Return when what was stored is gone for good, with an error that says so; meanwhile log restarts.

    A database that is not embedded is never gone.
    """
    if storage.find_server is None:
        await anyio.sleep_forever()
    assert storage.find_server is not None
    known: int | None = None
    while True:
        try:
            # A file system may be slow to answer.
            found = await to_thread.run_sync(storage.find_server)
        except Unavailable as error:
            return error
        if found is not None and found != known:
            if known is not None:
                logger.warning("database.restarted", database=storage.database, pid=found)
            known = found
        await anyio.sleep(LOOK_S)
