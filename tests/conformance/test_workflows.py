from adapters.conformance.store.workflows import *  # noqa: F403
