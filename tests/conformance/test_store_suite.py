"""The suite for stores finds what it is there to find: for every topic there is a store that it refuses, and says why.

Hints have none: what never comes has to be waited for.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

import adapters.conformance.store
from adapters.conformance.store import (
    World,
    all,  # noqa: A004 - its name
    backlog,
    claims,
    creations,
    foreign_appends,
    handing_back,
    heartbeats,
    histories,
    jobs,
    keys,
    listings,
    logs,
    notes,
    outbox,
    owned_appends,
    payloads,
    polls,
    races,
    repairs,
    schedules,
    sessions,
    storms,
    unparking,
    workflows,
)
from adapters.memory import MemoryPersistence, MemoryScheduler
from kernel.errors import PayloadRefused, StaleVersion
from kernel.ports.outbox import SinkRecord
from kernel.ports.persistence import Suspects
from tests.conformance.conftest import in_memory
from tests.syntax_trees import parsed

pytestmark = pytest.mark.anyio

NOT_TOPICS = {"all", "builders", "queued", "worlds"}
TOPICS = {module.name for module in pkgutil.iter_modules(adapters.conformance.store.__path__)} - NOT_TOPICS


class GivesMore(MemoryPersistence):
    async def claim(self, session_id, limit, /):
        return await super().claim(session_id, limit + 1)


class ForgetsMetadata(MemoryPersistence):
    async def append(self, append, /):
        await super().append(append if append.new is None else replace(append, new=replace(append.new, metadata=None)))


class SwallowsRefusals(MemoryPersistence):
    async def append(self, append, /):
        try:
            await super().append(append)
        except (StaleVersion, PayloadRefused):
            return


class KeepsReleased(MemoryPersistence):
    async def append(self, append, /):
        if append.mode != "release":
            await super().append(append)


class HidesAttention(MemoryPersistence):
    def heartbeat(self, session_id, /):
        heartbeat = super().heartbeat(session_id)
        beat = heartbeat._beat
        heartbeat._beat = lambda adrift: replace(beat(adrift), attention=())
        return heartbeat


class ReadsFromTheStart(MemoryPersistence):
    async def load(self, run_id, /, *, after=0, bodies=True):
        return await super().load(run_id, bodies=bodies)


class EnqueuesNothing(MemoryPersistence):
    async def append(self, append, /):
        await super().append(replace(append, jobs=None))


class ForgetsKeys(MemoryPersistence):
    async def append(self, append, /):
        await super().append(replace(append, key=None))


class OldestFirst(MemoryPersistence):
    async def list_runs(self, query, /):
        page = await super().list_runs(query)
        return replace(page, heads=page.heads[::-1])


class CountsTheOwned(MemoryPersistence):
    async def backlog(self):
        found = await super().backlog()
        return replace(found, runnable={name: count + 1 for name, count in found.runnable.items()})


class DropsFields(MemoryPersistence):
    async def write_logs(self, lines, /):
        await super().write_logs([replace(line, fields={}) for line in lines])


class CutsNotesShort(MemoryPersistence):
    async def read_notes(self, run_id, /, *, after=0, limit=1000):
        return (await super().read_notes(run_id, after=after, limit=limit))[:3]


class OwesAtOnce(MemoryPersistence):
    async def append(self, append, /):
        await super().append(append)
        await self.spread(10)


class ForgetsLooks(MemoryPersistence):
    async def append(self, append, /):
        await super().append(replace(append, poll_state=None))


class FindsNothing(MemoryPersistence):
    async def find_stuck(self, **_):
        return Suspects(run_ids=(), next=None)


class CannotCancel(MemoryPersistence):
    class Scheduler(MemoryScheduler):
        async def cancel(self, key, /):
            return key == key.strip()

    def __init__(self, clock):
        super().__init__(clock)
        self.scheduler = self.Scheduler(self._in_turn)


class OneSession(MemoryPersistence):
    only = None

    async def open_session(self, *given, **named):
        self.only = self.only or await super().open_session(*given, **named)
        return self.only


class LosesSome(MemoryPersistence):
    acknowledged = 0

    async def append(self, append, /):
        self.acknowledged += append.mode == "foreign"
        if append.mode != "foreign" or self.acknowledged % 3:
            await super().append(append)


class UnparksAll(MemoryPersistence):
    async def unpark_workflows(self, definitions, /):
        return await super().unpark_workflows([(name, version, None) for name, version, _ in definitions])


class KeepsTheFirst(MemoryPersistence):
    async def register_workflows(self, records, /):
        new = [r for r in records if await self.find_workflow(r.workflow_id, r.version) is None]
        await super().register_workflows(new)


async def nothing_is_owed_before_it_is_spread(world: World) -> None:
    await world.store.register_sinks([SinkRecord(name="audit")])
    await outbox.test_nothing_is_owed_before_it_is_spread(world, "audit")


async def rows_after_the_third(world: World) -> None:
    await histories.test_rows_after_a_sequence_number_are_those_that_end_later(world, 3, [5, 6, 7, 8])


async def a_zero_byte(world: World) -> None:
    await payloads.test_a_body_that_no_store_can_keep_is_refused(world, rb'"\u0000"')


async def a_storm(world: World) -> None:
    await storms.test_after_a_storm_the_store_is_whole(world, 0)


BROKEN = {
    "backlog": (CountsTheOwned, backlog.test_due_runs_that_nobody_drives_are_counted_by_workflow, "4 == 3"),
    "claims": (GivesMore, claims.test_a_claim_takes_no_more_than_it_asked_for, r"\[3, 2, 0\] == \[2, 2, 1\]"),
    "creations": (ForgetsMetadata, creations.test_the_head_of_a_new_run_says_what_was_given, "None == {'t"),
    "foreign_appends": (
        SwallowsRefusals,
        foreign_appends.test_a_foreign_append_on_an_old_state_is_refused,
        "DID NOT RAISE .*StaleVersion",
    ),
    "handing_back": (KeepsReleased, handing_back.test_a_released_run_waits_until_it_is_due, "At index 0 diff"),
    "heartbeats": (
        HidesAttention,
        heartbeats.test_a_foreign_append_is_reported_until_the_owner_has_appended,
        r"== \[\['",
    ),
    "histories": (ReadsFromTheStart, rows_after_the_third, r"\[3, 5, 6, 7, 8\] == \[5, 6, 7, 8\]"),
    "jobs": (EnqueuesNothing, jobs.test_a_job_appears_with_the_append_that_schedules_its_stage, r"\[\] == \[\('left'"),
    "keys": (ForgetsKeys, keys.test_a_key_leads_to_its_run, "None == '"),
    "listings": (OldestFirst, listings.test_runs_are_listed_newest_first, "At index 0 diff"),
    "logs": (DropsFields, logs.test_lines_come_back_as_they_were_written_and_in_order, "'tags': "),
    "notes": (
        CutsNotesShort,
        notes.test_they_are_read_in_order_and_by_pages_that_may_end_within_an_append,
        r"\[2, 3, 4\] == \[2, 3, 4, 5, 6, 7\]",
    ),
    "outbox": (OwesAtOnce, nothing_is_owed_before_it_is_spread, r"Delivery.* == \[\]"),
    "owned_appends": (
        SwallowsRefusals,
        owned_appends.test_an_append_decided_on_an_old_state_is_refused,
        "DID NOT RAISE .*StaleVersion",
    ),
    "payloads": (SwallowsRefusals, a_zero_byte, "DID NOT RAISE .*PayloadRefused"),
    "polls": (ForgetsLooks, polls.test_a_look_of_the_owner_is_kept_and_the_history_stays_as_it_is, "RunState"),
    "races": (SwallowsRefusals, races.test_of_two_appends_on_the_same_state_exactly_one_lands, "0 == 1"),
    "repairs": (FindsNothing, repairs.test_a_run_that_is_neither_owned_nor_due_is_a_suspect, r"\[\] == \['"),
    "schedules": (CannotCancel, schedules.test_a_cancelled_command_is_not_handed_out, r"TakenCommand.* == \[\]"),
    "sessions": (OneSession, sessions.test_every_session_has_an_id_of_its_own, r"'(.*)' != '\1'"),
    "storms": (LosesSome, a_storm, "Extra items in the right set"),
    "unparking": (UnparksAll, unparking.test_a_run_of_another_definition_stays_parked, "1 == 0"),
    "workflows": (KeepsTheFirst, workflows.test_registering_again_replaces_the_definition, "fingerprint='print-of-1'"),
}


@pytest.mark.parametrize("topic", BROKEN)
async def test_a_store_that_breaks_a_promise_is_refused_with_what_was_found(topic: str) -> None:
    broken, test, found = BROKEN[topic]
    held: Callable[[World], Awaitable[None]] = test

    async with in_memory(MemoryPersistence) as world:
        await held(world)
    async with in_memory(broken) as world:
        with pytest.raises((AssertionError, pytest.fail.Exception), match=found):
            await held(world)


async def test_what_needs_a_backdoor_that_a_store_does_not_have_is_skipped_and_says_so() -> None:
    async with World(in_memory().store) as world:
        with pytest.raises(pytest.skip.Exception, match=r"not checked: the Backdoor of this store has no expire$"):
            await sessions.test_an_expired_session_cannot_renew_even_before_it_is_condemned(world)


async def test_a_seed_repeats_what_chance_decided_and_is_shown_with_the_world() -> None:
    store = in_memory().store
    world, again, other = World(store, seed=7), World(store, seed=7), World(store)

    assert world.chance.random() == again.chance.random() != other.chance.random()
    assert repr(world) == "<World of MemoryPersistence, seed=7>"
    assert world.workflow != again.workflow


def test_every_topic_has_a_broken_store_and_a_file_here() -> None:
    files = {path.stem.removeprefix("test_"): path for path in Path(__file__).parent.glob("test_*.py")}

    assert {*BROKEN, "hints"} == TOPICS
    for topic in TOPICS:
        assert f"from adapters.conformance.store.{topic} import *" in files[topic].read_text(encoding="utf-8")


def test_everything_is_in_all_and_no_test_hides_another() -> None:
    names: Counter[str] = Counter()
    for topic in TOPICS:
        path = importlib.import_module(f"adapters.conformance.store.{topic}").__file__
        assert path is not None
        functions = ast.walk(parsed(Path(path).read_text(encoding="utf-8")))
        names.update(f.name for f in functions if isinstance(f, ast.AsyncFunctionDef) and f.name.startswith("test_"))

    assert max(names.values()) == 1
    assert set(names) == {name for name in vars(all) if name.startswith("test_")}
