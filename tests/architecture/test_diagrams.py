from __future__ import annotations

from tests.architecture.diagrams import PAGE, page_with_diagrams


def test_the_diagrams_of_the_architecture_page_are_those_of_the_tables():
    page = PAGE.read_text()

    assert page == page_with_diagrams(page), "run: python -m tests.architecture.diagrams"
