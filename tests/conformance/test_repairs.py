from adapters.conformance.store.repairs import *  # noqa: F403
