from adapters.conformance.store.creations import *  # noqa: F403
