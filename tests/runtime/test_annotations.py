"""Annotations by everybody who makes them, on both stores: bodies, creators, and whoever looks later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from kernel import (
    Actor,
    Annotation,
    Decision,
    Event,
    InvalidCommand,
    InvalidInput,
    NewAnnotations,
    NonRetryable,
    Revision,
    RunFailed,
    RunNotFound,
    StageContext,
    Suspend,
    Trigger,
    TypedKey,
    WorkflowBuilder,
    batch_stage,
    plugin,
    stage,
)
from kernel.authoring import CheckContext, Ready
from runtime import App
from runtime.bodies import NOTES_PER_ATTEMPT_MAX
from tests.runtime.gates import Doc, Gate
from tests.runtime.shared_store import SharedStore, until

pytestmark = pytest.mark.anyio

AGENT = Actor(kind="agent", id="judge", version="2")
PAGES = TypedKey("doc.pages", int)


@stage("judge")
async def judge(ctx: StageContext[Doc]) -> Doc:
    ctx.annotate({Decision.outcome: "accept", Decision.confidence: 0.9}, actor=AGENT, payload={"model": None})
    ctx.annotate(PAGES, 3, scope="page", scope_id="7", idempotency_key="counted")
    if ctx.input.text == "bad":
        raise NonRetryable("bad")
    return ctx.input


@batch_stage("later")
async def later(ctx: StageContext[Doc]) -> Suspend[Doc] | Doc:
    ctx.annotate("wait.begun", True)
    return Suspend(state=ctx.input, poll_interval=timedelta(0))


@later.check
async def later_check(state: Doc, ctx: CheckContext) -> Ready[Doc]:
    ctx.annotate("wait.over", True)
    return Ready(state)


JUDGED = WorkflowBuilder("judged", input=Doc, output=Doc).pipe(judge).pipe(later).build()
APP = App(workflows=[JUDGED])


def told(found: Any) -> list[tuple[str, object]]:
    return [(annotation.key, annotation.value) for annotation in found]


async def test_what_bodies_and_checks_remark_is_told_by_stage_attempt_and_actor(store: SharedStore):
    async with store.supervisor(APP) as supervisor, store.client(App(workflows=[])) as other:
        run = await supervisor.start(JUDGED, Doc(text="good"))
        await run.result()

        found = await other.run(run.id).annotations()

    assert told(found) == [
        ("decision.outcome", "accept"),
        ("decision.confidence", 0.9),
        ("doc.pages", 3),
        ("wait.begun", True),
        ("wait.over", True),
    ]
    assert [(a.stage_id, a.execution, a.attempt) for a in found] == [("judge", 1, 1)] * 3 + [("later", 1, 1)] * 2
    assert [(a.scope, a.scope_id) for a in found] == [("stage", None)] * 2 + [("page", "7")] + [("stage", None)] * 2
    assert [a.actor for a in found[:3]] == [AGENT, AGENT, None]
    assert (found[0].payload, found[2].idempotency_key) == ({"model": None}, "counted")


async def test_a_stage_that_failed_has_said_what_it_said(store: SharedStore):
    async with store.supervisor(APP) as supervisor:
        run = await supervisor.start(JUDGED, Doc(text="bad"))
        with pytest.raises(RunFailed):
            await run.result()

        assert told(await run.annotations(key_prefix="decision.")) == [
            ("decision.outcome", "accept"),
            ("decision.confidence", 0.9),
        ]


async def test_a_rerun_keeps_what_was_said_and_says_it_again_under_its_own_execution(store: SharedStore):
    async with store.supervisor(APP) as supervisor:
        run = await supervisor.start(JUDGED, Doc(text="good"))
        await run.result()
        await run.rerun_from(judge)
        await run.result()

        assert told(await run.annotations(stage=judge, execution=2)) == [
            ("decision.outcome", "accept"),
            ("decision.confidence", 0.9),
        ]
        # This one has an idempotency key.
        assert [a.execution for a in await run.annotations(key=PAGES)] == [1]


async def test_what_a_cancelled_attempt_wanted_to_say_is_dropped(store: SharedStore):
    gate = Gate()

    @stage("held")
    async def held(ctx: StageContext[Doc]) -> Doc:
        ctx.annotate("doc.seen", True)
        await gate.admit(ctx)
        return ctx.input

    workflow = WorkflowBuilder("held", input=Doc, output=Doc).pipe(held).build()
    async with store.supervisor(App(workflows=[workflow])) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        await run.annotate("doc.seen", False)
        assert await run.cancel()
        await until(lambda: gate.interrupted)

        assert told(await run.annotations()) == [("doc.seen", False)]


async def test_a_run_is_created_with_its_annotations(store: SharedStore):
    async with store.client(APP) as client:
        run = await client.start(JUDGED, Doc(text="x"), annotations={Trigger.source: "api", Trigger.actor_id: None})
        same = [NewAnnotations(attributes={Revision.reason: "typo"}, actor=Actor(kind="user", id="ada"))]
        other = await client.start("judged", {"text": "x"}, annotations=same)

        assert told(await run.annotations()) == [("trigger.source", "api")]
        (revision,) = await other.annotations(key=Revision.reason)
    assert (revision.value, revision.scope, revision.seq) == ("typo", "run", 2)
    assert str(revision.actor) == "user:ada"


async def test_anybody_attaches_to_a_run_that_is_driven_or_has_ended(store: SharedStore):
    gate = Gate()
    workflow = WorkflowBuilder("gated", input=Doc, output=Doc).pipe(gate.stage()).build()
    app = App(workflows=[workflow])
    async with store.supervisor(app) as supervisor, store.client(App(workflows=[])) as other:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        await other.run(run.id).annotate("review.begun", 1, stage="hold")
        await run.annotate("review.begun", 2)
        gate.open()
        assert await run.result() == Doc(text="x")

        assert await other.run(run.id).annotate({"review.done": True, "review.notes": None}) == 1

        assert told(await run.annotations()) == [("review.begun", 1), ("review.begun", 2), ("review.done", True)]
        assert (await run.describe()).status == "COMPLETED"
        # What sinks would not be given is an event of the history all the same.
        assert [event.type for event in await run.history()].count("annotation.created") == 3


async def test_many_who_attach_at_once_are_all_heard_and_one_idempotency_key_is_one(store: SharedStore):
    async with store.client(APP) as client:
        run = await client.start(JUDGED, Doc(text="x"), run_at=datetime.now(UTC) + timedelta(hours=1))

        async with anyio.create_task_group() as tasks:
            for n in range(8):
                tasks.start_soon(run.annotate, "vote.cast", n)
                tasks.start_soon(lambda n=n: run.annotate("vote.closed", n, idempotency_key="once"))

        found = await run.annotations()
    assert sorted(a.value for a in found if a.key == "vote.cast") == list(range(8))
    assert len([a for a in found if a.key == "vote.closed"]) == 1


@pytest.mark.parametrize(
    "filters, values",
    [
        ({}, [1, 2, 3, 4]),
        ({"key": "review.score"}, [1, 3]),
        ({"key": TypedKey("review.score", int)}, [1, 3]),
        ({"key_prefix": "review.s"}, [1, 2, 3]),
        ({"key": "review.score", "key_prefix": "nothing."}, [1, 3]),
        ({"scope": "run"}, [1, 4]),
        ({"scope": "page"}, [2]),
        ({"scope_id": "7"}, [2]),
        ({"stage": judge}, [3]),
        ({"stage": "judge", "key": "review.size"}, []),
        ({"attempt": 1}, []),
        ({"actor_kind": "user"}, [1, 2]),
        ({"actor_id": "eve"}, [2, 4]),
        ({"actor_kind": "agent", "actor_id": "eve", "actor_version": "2"}, [4]),
        ({"limit": 2}, [1, 2]),
        ({"since": datetime(2000, 1, 1, tzinfo=UTC)}, [1, 2, 3, 4]),
        ({"until": datetime(2000, 1, 1, tzinfo=UTC)}, []),
        ({"key": None, "scope": None, "stage": None}, [1, 2, 3, 4]),
    ],
)
async def test_a_list_has_that_for_which_everything_asked_is_true(
    memory: SharedStore, filters: dict[str, Any], values: list[int]
):
    async with memory.client(APP) as client:
        run = await client.start(JUDGED, Doc(text="x"))
        await run.annotate("review.score", 1, actor=Actor(kind="user", id="ada"))
        await run.annotate("review.size", 2, scope="page", scope_id="7", actor=Actor(kind="user", id="eve"))
        await run.annotate("review.score", 3, stage=judge)
        await run.annotate("reader.name", 4, actor=Actor(kind="agent", id="eve", version="2"))

        assert [a.value for a in await run.annotations(**filters)] == values


async def test_the_moments_of_a_list_are_from_the_first_to_before_the_second(store: SharedStore):
    async with store.client(APP) as client:
        run = await client.start(JUDGED, Doc(text="x"))
        for n in range(3):
            await run.annotate("review.score", n)
        first, second, _ = await run.annotations()

        assert [a.value for a in await run.annotations(since=second.at)] == [1, 2]
        assert [a.value for a in await run.annotations(since=first.at, until=second.at)] == [0]


async def test_more_annotations_than_one_page_are_listed(store: SharedStore):
    async with store.client(APP) as client:
        run = await client.start(JUDGED, Doc(text="x"))
        for part in range(3):
            await run.annotate({f"many.k{n}": n for n in range(part * 300, part * 300 + 300)})

        assert [a.value for a in await run.annotations(limit=10_000)] == list(range(900))
        assert [a.value for a in await run.annotations(key="many.k899")] == [899]


async def test_a_value_that_is_not_of_its_key_s_type_is_said_so_and_can_be_read_by_name(memory: SharedStore):
    async with memory.client(APP) as client:
        run = await client.start(JUDGED, Doc(text="x"))
        await run.annotate("doc.pages", "three")

        with pytest.raises(InvalidInput, match=r"doc\.pages"):
            await run.annotations(key=PAGES)

        (found,) = await run.annotations(key="doc.pages")
        assert isinstance(found, Annotation)
        assert found.value == "three"


@pytest.mark.parametrize(
    "filters, field",
    [
        ({"limit": 0}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"limit": True}, "limit"),
        ({"until": "2026-01-01"}, "until"),
        ({"since": datetime(2026, 1, 1)}, "since"),  # noqa: DTZ001 - that is the mistake
        ({"scope": "A B"}, "scope"),
        ({"key": "A B"}, "key"),
        ({"about": 1}, "about"),
    ],
)
async def test_a_filter_that_means_nothing_is_refused(memory: SharedStore, filters: dict[str, Any], field: str):
    async with memory.client(APP) as client:
        run = await client.start(JUDGED, Doc(text="x"))

        with pytest.raises(InvalidCommand) as refused:
            await run.annotations(**filters)

    assert refused.value.field == field


async def test_a_limit_of_none_is_not_asked(memory: SharedStore):
    async with memory.client(APP) as client:
        run = await client.start(JUDGED, Doc(text="x"))
        await run.annotate("doc.pages", 3)

        assert len(await run.annotations(limit=None)) == 1


async def test_a_run_that_does_not_exist_has_no_list(store: SharedStore):
    async with store.client(APP) as client:
        absent = client.run("019a0000-0000-7000-8000-000000000000")

        with pytest.raises(RunNotFound):
            await absent.annotations()
        with pytest.raises(RunNotFound):
            await absent.annotate("doc.pages", 1)


async def test_a_body_that_annotates_without_end_fails_with_the_reason(memory: SharedStore):
    @stage("endless")
    async def endless(ctx: StageContext[Doc]) -> Doc:
        for n in range(NOTES_PER_ATTEMPT_MAX + 1):
            ctx.annotate("doc.page", n)
        return ctx.input

    workflow = WorkflowBuilder("endless", input=Doc, output=Doc).pipe(endless).build()
    async with memory.supervisor(App(workflows=[workflow])) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))

        with pytest.raises(RunFailed, match="annotates more than 1000 times"):
            await run.result()


async def test_sinks_are_given_an_annotation_only_when_its_author_said_so(store: SharedStore):
    heard: list[Event] = []

    @plugin("scribe", on=["annotation.created", "run.completed"])
    async def scribe(event: Event) -> None:
        heard.append(event)

    @stage("note")
    async def note(ctx: StageContext[Doc]) -> Doc:
        ctx.annotate("doc.quiet", 1)
        ctx.annotate("doc.loud", {"n": 2}, emit_event=True, actor=AGENT)
        return ctx.input

    workflow = WorkflowBuilder("noting", input=Doc, output=Doc).pipe(note).build()
    async with store.supervisor(App(workflows=[workflow], plugins=[scribe])) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        await until(lambda: len(heard) == 2)

    assert [(event.type, getattr(event, "value", None)) for event in heard] == [
        ("annotation.created", {"n": 2}),
        ("run.completed", None),
    ]
