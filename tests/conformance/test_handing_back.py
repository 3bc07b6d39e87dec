from adapters.conformance.store.handing_back import *  # noqa: F403
