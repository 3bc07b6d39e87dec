from adapters.conformance.store.storms import *  # noqa: F403
