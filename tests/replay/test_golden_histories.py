"""Histories of every release must fold for ever.

A file in `golden/` is what some release wrote, with what it meant. No file is ever changed. A release that writes
something new adds one with `python -m tests.replay.freeze`: the rows as stored, and `summary_of` what they led to.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kernel.model.facts import FORMAT, NEWER, Fact, decode_facts, encode_facts, format_of
from kernel.model.run import RunState, fold
from tests.kernel.one_of_each import KINDS
from tests.replay.freeze import freeze
from tests.replay.summaries import as_asked, summary_of

GOLDEN = sorted(Path(__file__).parent.glob("golden/*.json"))

# Closed: whatever reads format 1 reads these and no others.
OF_FORMAT_1 = {
    *("run.created", "run.started", "run.owner_changed", "run.completed", "run.failed", "run.cancelled", "run.rerun"),
    *("stage.scheduled", "stage.started", "stage.completed", "stage.failed", "stage.retrying", "stage.suspended"),
    *("stage.cancelled", "stage.skipped", "step.recorded", "annotation.created"),
}


def read(path: Path) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return golden


def rows_of(golden: dict[str, Any]) -> list[tuple[int, datetime, tuple[Fact, ...]]]:
    return [
        (
            row["first_seq"],
            datetime.fromisoformat(row["at"]),
            decode_facts(json.dumps(row["events"]), run_id=golden["run_id"]),
        )
        for row in golden["rows"]
    ]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_history_means_what_it_meant_when_it_was_written(path: Path) -> None:
    golden = read(path)

    state = fold(golden["run_id"], rows_of(golden))

    assert as_asked(summary_of(state), golden["summary"]) == golden["summary"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_history_can_be_taken_up_at_every_append(path: Path) -> None:
    golden = read(path)
    rows = rows_of(golden)
    whole = fold(golden["run_id"], rows)

    for known in range(1, len(rows) + 1):
        state: RunState = fold(golden["run_id"], rows[:known])
        assert fold(golden["run_id"], rows, state) == whole


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_is_read_would_be_written_with_the_same_meaning(path: Path) -> None:
    for _, _, facts in rows_of(read(path)):
        assert decode_facts(encode_facts(facts), run_id="r") == facts


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_history_is_of_the_format_that_its_facts_need(path: Path) -> None:
    golden = read(path)

    assert format_of([fact for _, _, facts in rows_of(golden) for fact in facts]) == golden["format"] <= FORMAT


def test_every_kind_of_fact_has_been_frozen() -> None:
    written = {event["type"] for path in GOLDEN for row in read(path)["rows"] for event in row["events"]}

    missing = sorted(KINDS - written)
    assert not missing, (
        f"add a golden history with {missing}: tell it in SCENARIOS of tests/kernel/scenarios.py, under a NAME, "
        "then: python -m tests.replay.freeze NAME"
    )
    assert written == KINDS, "a kind that has been written must be read for ever"


def test_a_kind_of_fact_that_older_releases_cannot_read_has_a_format_of_its_own() -> None:
    absent = sorted(KINDS - OF_FORMAT_1 - NEWER.keys())
    assert not absent, f"give {absent} a row in NEWER of kernel/model/facts.py: one more than the last release's FORMAT"
    assert NEWER.keys() == KINDS - OF_FORMAT_1
    assert 1 not in NEWER.values()


def test_a_summary_may_learn_to_say_more_but_not_something_else() -> None:
    golden = read(GOLDEN[0])["summary"]
    stages = {stage_id: {**stage, "colour": "blue"} for stage_id, stage in golden["stages"].items()}

    assert as_asked({**golden, "labels": {}, "stages": stages}, golden) == golden
    assert as_asked({**golden, "seq": 99}, golden) != golden
    assert as_asked({**golden, "stages": {}}, golden) != golden


def test_a_story_is_frozen_once(tmp_path: Path) -> None:
    path = freeze("suspended_and_completed", tmp_path)

    golden = read(path)
    assert summary_of(fold(golden["run_id"], rows_of(golden))) == golden["summary"]
    with pytest.raises(SystemExit, match="exists, and no golden history is ever changed"):
        freeze("suspended_and_completed", tmp_path)
    with pytest.raises(SystemExit, match=r"it has: .*suspended_and_completed"):
        freeze("suspended", tmp_path)
