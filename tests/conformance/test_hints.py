from adapters.conformance.store.hints import *  # noqa: F403
