"""The tests that every store of runs must pass: `Persistence`, and the jobs and the schedule that go with it.

They are pytest modules, one for each topic, and `all` has them together. A test module of yours imports them, and a
fixture `world` beside it says which store they are for; TESTING.md shows a whole example. They know the ports and a
`World`, and nothing of any store. They need pytest, which nothing else that is installed does.

One call of the port has no test here: what connection `joined` can take part in, only the store knows.
"""

import pkgutil

import pytest

# Before they are imported: an assert of theirs is to say what it found, as one of your own does.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from adapters.conformance.store.worlds import Backdoor, ByWaiting, Passage, Store, World  # noqa: E402 - see above

__all__ = ["Backdoor", "ByWaiting", "Passage", "Store", "World"]
