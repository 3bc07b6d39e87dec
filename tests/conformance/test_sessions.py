from adapters.conformance.store.sessions import *  # noqa: F403
