from adapters.conformance.store.listings import *  # noqa: F403
