"""What every adapter must do, as checks that a test of yours calls; our own adapters are tested by the same ones.

A check is an `async` function that is given an adapter and raises `BrokenPromise`, or what the adapter raised. There is
one suite for each port that users write adapters for: `BLOB_STORE_CHECKS`, each of which takes a `BlobStore`, and
`EVENT_SINK_CHECKS`, each of which takes an `EventSink` and a function that tells what has arrived. They need neither
pytest nor an event loop of a certain kind, and know no technology. A store of runs promises too much for a list of
checks: its suite is a package of pytest modules, `adapters.conformance.store`.
"""

from adapters.conformance.blob_stores import BLOB_STORE_CHECKS, BlobStoreCheck
from adapters.conformance.event_sinks import EVENT_SINK_CHECKS, Arrived, EventSinkCheck
from adapters.conformance.promises import BrokenPromise

__all__ = [
    "BLOB_STORE_CHECKS",
    "EVENT_SINK_CHECKS",
    "Arrived",
    "BlobStoreCheck",
    "BrokenPromise",
    "EventSinkCheck",
]
