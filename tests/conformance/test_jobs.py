from adapters.conformance.store.jobs import *  # noqa: F403
