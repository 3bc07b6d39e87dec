"""Draws the state machines of ARCHITECTURE.md from their tables; `python -m tests.architecture.diagrams` does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kernel.model.machine import RUN_TRANSITIONS, STAGE_TRANSITIONS, Status

PAGE = Path(__file__).parents[2] / "ARCHITECTURE.md"
BEGIN, END = "<!-- diagrams -->\n", "<!-- /diagrams -->"

Table = Mapping[tuple[Status | None, str], Status]


def drawn() -> str:
    """Both diagrams, as they belong between the two marks."""
    return f"{BEGIN}\nA run:\n\n{_diagram(RUN_TRANSITIONS)}\nA stage:\n\n{_diagram(STAGE_TRANSITIONS)}\n{END}"


def page_with_diagrams(page: str) -> str:
    """The page with what stands between the marks drawn anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + drawn() + after


def _diagram(table: Table) -> str:
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), after in table.items():
        arrows.setdefault((state or "[*]", after), []).append(event)
    lines = [f"    {state} --> {after}: {', '.join(events)}" for (state, after), events in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


if __name__ == "__main__":
    PAGE.write_text(page_with_diagrams(PAGE.read_text()))
