from adapters.conformance.store.claims import *  # noqa: F403
