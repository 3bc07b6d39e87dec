from adapters.conformance.store.histories import *  # noqa: F403
