from adapters.conformance.store.payloads import *  # noqa: F403
