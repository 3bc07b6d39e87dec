from adapters.conformance.store.logs import *  # noqa: F403
