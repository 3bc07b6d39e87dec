"""REFERENCE.md says what the code says."""

from __future__ import annotations

from kernel.dispatch import ROUTES
from runtime.commandline import parser
from runtime.config import SETTINGS
from tests.architecture.reference import PAGE, page


def test_the_reference_page_is_what_the_code_says_today() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.architecture.reference"


def test_every_command_setting_and_word_has_a_row() -> None:
    written = page()

    wanted = {
        *(f"| `{command.type}` |" for command in ROUTES),
        *(f"| `{row.key}` | `{row.variable}` |" for row in SETTINGS),
        *(f"### `leasehold {name}" for name in parser._COMMANDS),
    }
    assert {row for row in wanted if row not in written} == set()
