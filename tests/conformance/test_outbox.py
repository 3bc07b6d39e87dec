from adapters.conformance.store.outbox import *  # noqa: F403
