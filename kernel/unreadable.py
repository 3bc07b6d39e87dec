"""What is shown instead of a payload that cannot be read: whoever looks at a run wants the rest of it all the same.

Apart from `kernel.journal`, which reads payloads for those who go on with them: for these, what cannot be read is an
error and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import from_json

from kernel.errors import BlobNotFound, EngineError, Unavailable
from kernel.journal import fetch_payloads
from kernel.model.facts import CorruptHistory
from kernel.model.stage import Body
from kernel.ports.blobs import BlobReading

__all__ = ["NamedFailures", "PayloadAway", "Unreadable", "fetch_shown"]


class Unreadable(dict[str, str]):
    """Stands where a payload would be shown that cannot be read, in JSON as `{"$unreadable": "why"}`.

    `is_lost` says that the blob store has answered, and has nothing under the payload's key.
    """

    def __init__(self, error: EngineError) -> None:
        super().__init__({"$unreadable": error.message})
        self.is_lost: bool = isinstance(error, BlobNotFound)

    @property
    def reason(self) -> str:
        """Why it cannot be read."""
        return self["$unreadable"]


class PayloadAway(Unavailable):
    """The blob store did not give a payload, and did not say that it has none: the store is away, or has a defect."""


class NamedFailures:
    """A blob store whose failures to read are `BlobNotFound` or `PayloadAway`, whatever it raises itself."""

    def __init__(self, blobs: BlobReading) -> None:
        self._blobs = blobs

    async def get(self, key: str, /) -> bytes:
        """The bytes. Raises: BlobNotFound, PayloadAway."""
        try:
            return await self._blobs.get(key)
        except BlobNotFound:
            raise
        except EngineError as error:
            raise PayloadAway(error.message, field=error.field, hint=error.hint) from error
        except Exception as error:
            raise PayloadAway(f'The blob store failed to read "{key}": {type(error).__name__}: {error}.') from error


async def fetch_shown(
    run_id: str, bodies: Iterable[Body], inline: Mapping[int, bytes], blobs: BlobReading
) -> dict[Body, Any]:
    """The payloads of `bodies` as plain JSON, an `Unreadable` for each that the blob store does not give.

    A store that is away is asked once. Raises: CorruptHistory, when an inline payload is absent.
    """
    named = NamedFailures(blobs)
    found: dict[Body, Any] = {}
    away: Unreadable | None = None
    for body in bodies:
        if away is not None and body.blob is not None:
            found[body] = away
            continue
        try:
            found[body] = from_json((await fetch_payloads(run_id, [body], inline, named))[body])
        except PayloadAway as error:
            found[body] = away = Unreadable(error)
        except (BlobNotFound, CorruptHistory) as error:
            if body.blob is None:
                raise
            found[body] = Unreadable(error)
    return found
