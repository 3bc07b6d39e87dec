"""One Jaeger for all of these tests; each has traces of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jaeger.server import Jaeger, running_jaeger


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    with running_jaeger(tmp_path_factory.mktemp("jaeger")) as jaeger:
        yield jaeger
