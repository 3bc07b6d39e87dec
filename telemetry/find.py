"""Whether this program traces, asked without importing what would do it.

An engine that is not watched pays nothing: OpenTelemetry is imported by the program that sets it up, or not at all.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.persistence import Persistence
from telemetry.names import SCOPE
from telemetry.privacy import NOTHING, Privacy

if TYPE_CHECKING:
    from telemetry.tracing import Tracing

__all__ = ["find_tracing"]


def find_tracing(store: Persistence, *, clock: Clock, ids: Ids, privacy: Privacy = NOTHING) -> Tracing | None:
    """What watches the users of this store, if the program has set up a tracer provider of the OpenTelemetry SDK."""
    api, sdk = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.sdk.trace")
    if api is None or sdk is None:
        return None
    provider = api.get_tracer_provider()
    # A disabled one has tracers that do nothing.
    if not isinstance(provider, sdk.TracerProvider) or not isinstance(provider.get_tracer(SCOPE), sdk.Tracer):
        return None
    from telemetry.tracing import Tracing

    return Tracing(provider, store, clock=clock, ids=ids, privacy=privacy)
