"""What was annotated is read from histories: in order, by pages, also of runs that have ended."""

from __future__ import annotations

import json

import pytest

from adapters.conformance.store.builders import annotating, cancelling, completing, noting
from adapters.conformance.store.worlds import World
from kernel.model.draft import Draft
from kernel.model.facts import AnnotationCreated

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def seqs(world: World, run_id: str, *, after: int = 0, limit: int = 1000) -> list[int]:
    return [note.seq for note in await world.other.read_notes(run_id, after=after, limit=limit)]


async def test_an_annotation_comes_back_as_it_was_appended(world: World) -> None:
    run = await world.started(await world.session())
    fact = AnnotationCreated(key="photo.owner", actor="user:ada", payload='{"a":1e22}', once="k")

    append = await run.land(world.other, run.foreign(lambda draft: draft.add(fact, b'{"b":1e22}')))

    (note,) = await world.store.read_notes(run.id)
    assert (note.seq, note.at) == (append.seq, append.at)
    assert note.value == b'{"b":1e22}'
    assert json.loads(note.fact) == {
        "type": "annotation.created",
        "key": "photo.owner",
        "scope": "run",
        "actor": "user:ada",
        "payload": '{"a":1e22}',
        "once": "k",
    }


async def test_annotations_are_found_among_other_facts_of_the_same_append(world: World) -> None:
    run = await world.started(await world.session())

    def noted_and_completed(draft: Draft) -> None:
        annotating(draft)
        completing(draft)
        annotating(draft)

    append = await run.land(world.store, run.owned(noted_and_completed))

    assert await seqs(world, run.id) == [append.expected + 1, append.seq]


async def test_they_are_read_in_order_and_by_pages_that_may_end_within_an_append(world: World) -> None:
    def thrice(draft: Draft) -> None:
        for _ in range(3):
            annotating(draft)

    run = await world.create()
    for _ in range(2):
        await world.adds(run, thrice)
    whole = await seqs(world, run.id)
    assert whole == [2, 3, 4, 5, 6, 7]

    first = await seqs(world, run.id, limit=2)
    rest = await seqs(world, run.id, after=first[-1], limit=10)

    assert first + rest == whole
    assert await seqs(world, run.id, after=7) == []


async def test_a_run_that_has_ended_takes_annotations_and_stays_as_it_is(world: World) -> None:
    run = await world.create()
    await world.adds(run, cancelling)
    before = (await world.store.load(run.id)).head

    await world.adds(run, noting(b'"late"'))

    after = (await world.store.load(run.id)).head
    assert [note.value for note in await world.store.read_notes(run.id)] == [b'"late"']
    assert (after.head, after.owner, after.attention) == (before.head, None, False)
    assert await world.claims(await world.session()) == []


async def test_a_parked_run_takes_annotations_and_stays_parked(world: World) -> None:
    run = await world.parked()

    await world.adds(run, annotating)

    assert (await world.store.load(run.id)).head.parked_reason == "corrupt_history"
    assert len(await seqs(world, run.id)) == 1


async def test_runs_have_annotations_of_their_own_and_an_unknown_one_has_none(world: World) -> None:
    first, second = await world.create(), await world.create()
    await world.adds(first, noting(b"1"))
    await world.adds(second, noting(b"2"))

    assert [note.value for note in await world.store.read_notes(first.id)] == [b"1"]
    assert list(await world.store.read_notes("no-run")) == []
    assert list(await world.store.read_notes("019a0000-0000-7000-8000-000000000000")) == []
