"""Writes golden histories: `python -m tests.replay.freeze NAME` keeps one of `tests.kernel.scenarios` for ever.

A file says what the release that wrote it means by its facts, so one that exists is never written again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kernel.model.facts import format_of
from tests.kernel.scenarios import SCENARIOS, told
from tests.kernel.stories import Story
from tests.replay.summaries import summary_of

GOLDEN = Path(__file__).parent / "golden"


def golden_of(story: Story, about: str) -> dict[str, Any]:
    """What a file says of a story: its rows as stored, and what they led to."""
    return {
        "format": format_of(story.facts),
        "about": about,
        "run_id": story.state.run_id,
        "rows": [
            {"first_seq": first_seq, "at": at.isoformat(), "events": json.loads(events)}
            for first_seq, at, events in story.rows
        ],
        "summary": summary_of(story.state),
    }


def freeze(name: str, folder: Path = GOLDEN) -> Path:
    """Write the scenario of this name, and return where. Raises: SystemExit, when there is none, or it is frozen."""
    scenario = SCENARIOS.get(name)
    if scenario is None:
        raise SystemExit(f"tests/kernel/scenarios.py has no {name!r}; it has: {', '.join(SCENARIOS)}.")
    path = folder / f"{name.replace('_', '-')}.json"
    about = scenario.__doc__ or f"A run that was {name.replace('_', ' ')}."
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(golden_of(told(scenario), about), indent=1, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise SystemExit(f"{path} exists, and no golden history is ever changed; tell another story.") from None
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"python -m tests.replay.freeze NAME, one of: {', '.join(SCENARIOS)}.")
    print(freeze(sys.argv[1]))
