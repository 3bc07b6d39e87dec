from adapters.conformance.store.notes import *  # noqa: F403
