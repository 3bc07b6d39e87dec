from adapters.conformance.store.keys import *  # noqa: F403
