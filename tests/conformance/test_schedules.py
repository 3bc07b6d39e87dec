from adapters.conformance.store.schedules import *  # noqa: F403
