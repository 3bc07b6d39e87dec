from adapters.conformance.store.foreign_appends import *  # noqa: F403
