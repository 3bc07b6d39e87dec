from adapters.conformance.store.owned_appends import *  # noqa: F403
