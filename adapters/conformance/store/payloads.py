"""What no store can keep is refused by name, alone, and whatever else is JSON comes back the same."""

import json
from dataclasses import replace

import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import KnownRun, a_key, noting, plain
from adapters.conformance.store.worlds import World
from kernel.errors import ErrorInfo, PayloadRefused, RunNotFound
from kernel.model.facts import RunFailed
from kernel.ports.persistence import Append

pytestmark: pytest.MarkDecorator = pytest.mark.anyio

POISON = {
    "a NUL character": b'"before \\u0000 after"',
    "a lone high surrogate": b'"\\ud800"',
    "a lone low surrogate": b'"\\udc00 x"',
    "a raw lone surrogate": b'"\xed\xa0\x80"',
    "not UTF-8": b'"\xff"',
    "half a document": b'{"a":',
    "NaN": b"NaN",
    "an infinity": b"[-Infinity]",
}

HARMLESS = {
    "an escaped backslash before u0000": b'"C:\\\\u0000"',
    "a pair of surrogates": b'"\\ud83d\\ude00"',
    "every plane of Unicode": '"aäя漢😀\u200b\ufffd"'.encode(),
    "control characters": b'"\\u0001\\t\\n\\u001f"',
    "numbers": b"[0,-1,1.5,1e21,12345678901234567890,0.1]",
    "words of Postgres": b'"\'; DROP TABLE runs; -- $1 {} []"',
    "the words NaN and Infinity": b'"NaN Infinity"',
    "empty things": b'[{},[],"",null,false]',
    "a key that is empty": b'{"":{"":1}}',
    "nesting": b"[" * 90 + b"]" * 90,
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
async def test_a_body_that_no_store_can_keep_is_refused(world: World, poison: bytes) -> None:
    run = await world.create()

    with pytest.raises(PayloadRefused):
        await world.store.append(run.foreign(noting(poison)))

    assert (await world.store.load(run.id)).head.seq == 1


@pytest.mark.parametrize("body", HARMLESS.values(), ids=HARMLESS)
async def test_a_body_that_is_json_comes_back_the_same(world: World, body: bytes) -> None:
    run = await world.create()

    await run.land(world.store, run.foreign(noting(body)))

    (_, row) = (await world.other.load(run.id)).rows
    assert plain(row.bodies["2"]) == json.loads(body)


async def test_a_poisonous_body_harms_none_of_the_appends_beside_it(world: World) -> None:
    runs = [await world.create() for _ in range(21)]
    refused: list[str] = []

    async def send(run: KnownRun, append: Append) -> None:
        try:
            await run.land(world.store, append)
        except PayloadRefused:
            refused.append(run.id)

    async with create_task_group() as group:
        for number, run in enumerate(runs):
            group.start_soon(send, run, run.foreign(noting(b'"\\u0000"' if number == 10 else b'"fine"')))

    assert refused == [runs[10].id]
    heads = await world.store.heads([run.id for run in runs])
    assert [heads[run.id].seq for run in runs] == [2] * 10 + [1] + [2] * 10


async def test_a_poisonous_event_is_refused(world: World) -> None:
    run = await world.create()
    error = ErrorInfo(type="ValueError", message="binary \0 data")

    with pytest.raises(PayloadRefused):
        await world.store.append(run.foreign(lambda draft: draft.add(RunFailed(error=error))))

    assert (await world.store.load(run.id)).head.seq == 1


@pytest.mark.parametrize("metadata", [{"a": "\0"}, {"\0": 1}, {"a": "\ud800"}, {"a": float("nan")}])
async def test_poisonous_metadata_is_refused(world: World, metadata: dict[str, object]) -> None:
    creation = world.creation(metadata=metadata)

    with pytest.raises(PayloadRefused):
        await world.store.append(creation)

    with pytest.raises(RunNotFound):
        await world.store.load(creation.run_id)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"], ids=["NUL", "surrogate"])
async def test_a_poisonous_key_is_refused_and_found_nowhere(world: World, text: str) -> None:
    creation = world.creation(idempotency_key=text, key=a_key(text, scope=world.workflow))

    with pytest.raises(PayloadRefused):
        await world.store.append(creation)

    assert await world.store.find_key("run.create", world.workflow, text) is None
    assert await world.store.heads([creation.run_id]) == {}


@pytest.mark.parametrize("text", ["a\0b", "\ud800"], ids=["NUL", "surrogate"])
async def test_a_poisonous_reason_for_parking_is_refused(world: World, text: str) -> None:
    run = await world.started(await world.session())

    with pytest.raises(PayloadRefused):
        await world.store.append(run.park(text))

    assert (await world.store.load(run.id)).head.parked_reason is None


async def test_a_refused_append_can_be_sent_again_in_a_better_form(world: World) -> None:
    run = await world.create()
    bad = run.foreign(noting(b'"\\u0000"'))
    with pytest.raises(PayloadRefused):
        await world.store.append(bad)

    await world.store.append(replace(bad, bodies=b'{"2":"clean"}'))

    assert (await world.store.load(run.id)).head.seq == 2
