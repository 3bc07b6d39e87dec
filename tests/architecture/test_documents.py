"""The pages name what exists: every link leads somewhere, every feature has one, and no example is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGES = [*sorted(ROOT.glob("*.md")), EXAMPLES / "README.md"]
AHEAD = {"AI", "SQLite", "remote workers"}

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    """Where the links of a page lead, other than to the web; what is code has none."""
    return [to for to in LINK.findall(CODE.sub("", text)) if "://" not in to]


def sections(text: str) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path, text: str) -> list[str]:
    wrong: list[str] = []
    for to in links(text):
        place, _, section = to.partition("#")
        target = page.parent / place if place else page
        if not target.exists() or (section and section not in sections(target.read_text(encoding="utf-8"))):
            wrong.append(to)
    return wrong


def features() -> dict[str, str]:
    """What stands beside each feature in the README's table."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Features\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return dict(rows[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "[a](gone.md) [`b`](README.md) [c](README.md#features) [d](README.md#gone) `[e](code.py)` [f](https://example.org)"

    assert broken(ROOT / "page.md", text) == ["gone.md", "README.md#gone"]


def test_every_feature_has_an_example_or_a_test_or_is_said_to_be_ahead() -> None:
    table = features()
    ahead = {feature for feature, see in table.items() if see == "on the horizon"}

    assert len(table) > 25
    assert all(any(word in feature for word in AHEAD) for feature in ahead)
    assert len(ahead) == len(AHEAD)
    for feature in table.keys() - ahead:
        assert links(table[feature]), feature


def test_the_cookbook_names_every_example_once() -> None:
    named = [to for to in links((EXAMPLES / "README.md").read_text(encoding="utf-8")) if to.endswith(".py")]

    assert sorted(named) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def test_every_example_has_its_test() -> None:
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "examples").glob("test_*.py")}

    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested
