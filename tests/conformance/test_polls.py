from adapters.conformance.store.polls import *  # noqa: F403
