"""The two tables: every row is taken, and nothing else is possible."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from kernel.errors import IllegalTransition
from kernel.model.facts import Fact, RunCreated
from kernel.model.machine import ACTIVE, ENDED, RUN_TRANSITIONS, STAGE_TRANSITIONS, Status
from kernel.model.run import RunState, evolve
from kernel.model.stage import StageFact
from tests.kernel.one_of_each import KINDS, ONE_OF_EACH
from tests.kernel.scenarios import SCENARIOS, told
from tests.kernel.stories import NOW, RUN_ID, a_creation, a_plan, transitions_of

RUN_FACTS: list[Fact] = [fact for fact in ONE_OF_EACH if fact.type in {event for _, event in RUN_TRANSITIONS}]
STAGE_FACTS: list[Fact] = [fact for fact in ONE_OF_EACH if isinstance(fact, StageFact)]

Table = Mapping[tuple[Status | None, str], Status]


def test_one_of_every_kind_of_fact_is_tried() -> None:
    absent = KINDS - {fact.type for fact in ONE_OF_EACH}
    assert not absent, f"give ONE_OF_EACH of tests/kernel/one_of_each.py one of {sorted(absent)}"


def test_every_row_of_both_tables_is_taken() -> None:
    taken_by_runs: dict[tuple[Any, str], Any] = {}
    taken_by_stages: dict[tuple[Any, str], Any] = {}

    for scenario in SCENARIOS.values():
        of_run, of_stages = transitions_of(told(scenario))
        taken_by_runs |= of_run
        taken_by_stages |= of_stages

    for taken, table in ((taken_by_runs, RUN_TRANSITIONS), (taken_by_stages, STAGE_TRANSITIONS)):
        never = [f"{before or 'absent'}: {event}" for before, event in table.keys() - taken.keys()]
        assert not never, f"tell a story in SCENARIOS of tests/kernel/scenarios.py that takes {sorted(never)}"
        assert taken == dict(table)


def outcomes(facts: list[Fact], table: Table) -> list[tuple[Status, Fact, Status | None]]:
    return [(status, fact, table.get((status, fact.type))) for status, fact in itertools.product(Status, facts)]


def a_state(*, run: Status = Status.RUNNING, stage: Status = Status.PENDING) -> RunState:
    state = evolve(None, a_creation(a_plan("a", "b")), run_id=RUN_ID, at=NOW)
    a, b = state.stages["a"], state.stages["b"]
    return replace(state, status=run, stages={"a": replace(a, status=stage), "b": replace(b, status=Status.COMPLETED)})


def test_a_run_changes_as_the_table_says_and_in_no_other_way() -> None:
    for before, fact, after in outcomes(RUN_FACTS, RUN_TRANSITIONS):
        state = a_state(run=before)
        if after is None:
            with pytest.raises(IllegalTransition) as refused:
                evolve(state, fact, run_id=RUN_ID, at=NOW)
            assert (refused.value.state, refused.value.event) == (before, fact.type)
        else:
            assert evolve(state, fact, run_id=RUN_ID, at=NOW).status is after


def test_a_stage_changes_as_the_table_says_and_in_no_other_way() -> None:
    for before, fact, after in outcomes(STAGE_FACTS, STAGE_TRANSITIONS):
        state = a_state(stage=before)
        if after is None:
            with pytest.raises(IllegalTransition, match=f'Stage "a" of run "{RUN_ID}" is {before}'):
                evolve(state, fact, run_id=RUN_ID, at=NOW)
        else:
            assert evolve(state, fact, run_id=RUN_ID, at=NOW).stages["a"].status is after


def test_a_history_begins_with_the_creation_of_its_run() -> None:
    for fact in ONE_OF_EACH:
        if isinstance(fact, RunCreated):
            continue
        with pytest.raises(IllegalTransition, match="is absent and admits no"):
            evolve(None, fact, run_id=RUN_ID, at=NOW)


def test_only_a_rerun_leads_out_of_an_end() -> None:
    rows = [*RUN_TRANSITIONS.items(), *STAGE_TRANSITIONS.items()]

    ways_out = {event for (before, event), after in rows if before in ENDED and after is not before}

    assert ways_out == {"run.rerun"}
    assert set(Status) == ACTIVE | ENDED
    assert not ACTIVE & ENDED
