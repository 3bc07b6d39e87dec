from adapters.conformance.store.backlog import *  # noqa: F403
