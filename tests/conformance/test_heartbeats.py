from adapters.conformance.store.heartbeats import *  # noqa: F403
