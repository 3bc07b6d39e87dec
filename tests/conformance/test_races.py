from adapters.conformance.store.races import *  # noqa: F403
