"""OPERATIONS.md knows every reason to wait, and names commands that exist."""

from __future__ import annotations

import re

import pytest

from runtime.commandline.parser import parse
from tests.architecture.operations import COMMANDS, SECTIONS, waiting_words


def test_every_word_that_a_run_may_wait_for_has_a_section_and_no_other() -> None:
    words = waiting_words()

    assert {"claim", "poll", "capacity", "newer_release", "definition_changed", "undecidable", "parked"} < words
    assert words == SECTIONS


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_on_the_page_is_understood(words: str) -> None:
    parse(re.sub(r"\$\w+", "x", words).split())


def test_it_says_what_to_do_about_events_that_do_not_arrive() -> None:
    assert {"dlq list", "dlq replay", "sinks", "sinks forget $NAME"} <= {" ".join(each.split()) for each in COMMANDS}
