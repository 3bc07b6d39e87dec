from adapters.conformance.store.unparking import *  # noqa: F403
