"""Histories of every release must fold for ever.

A file in `golden/` is what some release wrote, with what it meant. No file is ever changed. A release that writes
something new adds one: the rows as stored, and `summary_of` the state that they led to.
"""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from kernel.model.facts import FORMAT, Fact, decode_facts, encode_facts
from kernel.model.run import RunState, fold
from tests.replay.summaries import summary_of

GOLDEN = sorted(Path(__file__).parent.glob("golden/*.json"))


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

    assert summary_of(state) == golden["summary"]


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


def test_every_kind_of_fact_has_been_frozen() -> None:
    written = {event["type"] for path in GOLDEN for row in read(path)["rows"] for event in row["events"]}
    kinds = {f.default for cls in get_args(get_args(Fact)[0]) for f in fields(cls) if f.name == "type"}

    assert written == kinds
    assert {read(path)["format"] for path in GOLDEN} == {FORMAT}
