"""What an actor does when something else happens to its run while one of its own appends is under way."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernel import LeaseLost, RetryPolicy, RunFailed, StageContext, TransitionRun, WorkflowBuilder, stage
from kernel.errors import PayloadRefused
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import AnnotationCreated
from kernel.model.run import RunState
from kernel.ports.persistence import Append
from runtime import RunHandle
from runtime.mailbox import Mailbox
from tests.runtime.gates import Doc, Gate, echo
from tests.runtime.held_store import HeldStore, parks
from tests.runtime.shared_store import in_memory, until

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(max_attempts=1)


async def test_a_failed_stage_that_cancels_its_siblings_interrupts_their_bodies():
    gate, fail = Gate(), anyio.Event()

    @stage("boom", retry=ONCE)
    async def boom(ctx: StageContext[Doc]) -> Doc:
        await fail.wait()
        raise ValueError(ctx.input.text)

    workflow = WorkflowBuilder("w", input=Doc).parallel([gate.stage("slow"), boom], on_failure="cancel").build()
    async with in_memory().supervisor(workflow, drain_grace=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        fail.set()
        with pytest.raises(RunFailed):
            await run.result()
        await until(lambda: gate.interrupted, within_s=5)
        await until(lambda: supervisor.stats().actors == 0)
        assert supervisor.stats().bodies == 0


async def test_whoever_asks_while_the_actor_reads_is_answered_when_the_lease_is_lost_meanwhile():
    held, gate = HeldStore(), Gate()
    answers: list[bool | LeaseLost] = []
    workflow = gate.workflow()

    async def cancel(run: RunHandle[Doc]) -> None:
        supervisor.actors[run.id].look()
        try:
            answers.append(await run.cancel())
        except LeaseLost as error:
            answers.append(error)

    async with in_memory(held).supervisor(workflow, drain_grace=0.0) as supervisor, anyio.create_task_group() as tasks:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        held.hold_loads = True
        tasks.start_soon(cancel, run)
        await until(lambda: held.loading)
        supervisor.actors[run.id].abandon()
        await until(lambda: answers, within_s=5)
    assert isinstance(answers[0], LeaseLost)


async def test_a_start_and_a_cancel_in_the_same_moment_begin_no_body_and_cancel_the_run():
    gate, answers, holding, go = Gate(), list[bool](), False, anyio.Event()
    workflow = gate.workflow()

    async def wait(mailbox: Mailbox, seconds: float | None) -> None:
        await (go.wait() if holding else mailbox.wait(seconds))

    async def cancel(run: RunHandle[Doc]) -> None:
        answers.append(await run.cancel())

    place = in_memory()
    async with place.supervisor(workflow, max_bodies=1, wait=wait) as supervisor, anyio.create_task_group() as tasks:
        first = await supervisor.start(workflow, Doc(text="1"))
        await until(lambda: gate.entered)
        holding = True
        second = await supervisor.start(workflow, Doc(text="2"))
        await until(lambda: supervisor.stats().bodies_waiting)
        gate.open()
        assert await first.result() == Doc(text="1")
        await until(lambda: supervisor.stats().bodies == 0)
        tasks.start_soon(cancel, second)
        await anyio.wait_all_tasks_blocked()
        holding = False
        go.set()
        await until(lambda: answers)
        await until(lambda: supervisor.stats().actors == 0)
        assert (answers, len(gate.entered), supervisor.stats().bodies) == ([True], 1, 0)


async def test_a_faulty_run_that_is_cancelled_while_its_fault_is_recorded_is_not_parked():
    held, workflow = UncheckedRuns(), echo()
    place = in_memory(held)
    async with place.client(workflow) as client:
        run = await client.start(workflow, Doc(text="x"))
        held.before = lambda append: append.mode == "owned"
        async with place.supervisor(workflow) as supervisor:
            await until(lambda: held.held)
            held.hold_nothing_new()
            assert await run.cancel() is True
            held.let_go()
            await until(lambda: supervisor.stats().actors == 0)
            head = (await held.load(run.id)).head
    assert (head.head.status, head.parked_reason, head.owner) == ("CANCELLED", None, None)


async def test_what_is_noted_of_a_run_while_its_end_is_recorded_is_recorded_after_it():
    held, workflow, noted = HeldStore(), echo(), list[bool]()
    place = in_memory(held)

    def note(state: RunState, moment: Moment) -> Decision[bool]:
        draft = Draft(state, moment)
        draft.add(AnnotationCreated(key="note"), b'"seen"')
        return draft.decided(True)

    async def annotate(run: RunHandle[Doc]) -> None:
        noted.append(await supervisor.kernel.ports.journals.record(run.id, note))

    async with place.supervisor(workflow) as supervisor, anyio.create_task_group() as tasks:
        held.before = lambda append: append.mode == "owned"
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: held.held)
        tasks.start_soon(annotate, run)
        await anyio.wait_all_tasks_blocked()
        held.hold_nothing_new()
        held.let_go()
        assert await run.result() == Doc(text="x")
        await until(lambda: noted, within_s=5)
        assert [event.type for event in await run.history()][-2:] == ["run.completed", "annotation.created"]


class UncheckedRuns(HeldStore):
    """Creates runs as SQL does, which asks nobody whether the input fits; here it does not."""

    async def append(self, append: Append, /) -> bool:
        if append.mode == "create":
            events = append.events.replace(b'"checked":true', b'"checked":false')
            bodies = append.bodies.replace(b'"text"', b'"txet"')
            assert events != append.events
            append = dataclasses.replace(append, events=events, bodies=bodies, lease=None)
        return await super().append(append)


async def test_an_output_that_the_store_refuses_does_not_fail_the_sibling_that_ends_with_it():
    both = Gate()
    workflow = WorkflowBuilder("w", input=Doc).parallel([answering(both, "poison"), answering(both, "fine")]).build()
    async with in_memory(PoisonRefused()).supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: len(both.entered) == 2)
        both.open()
        with pytest.raises(RunFailed):
            await run.result()
        statuses = {found.id: found.status for found in (await run.describe()).stages}
    assert (statuses["poison"], statuses["fine"]) == ("FAILED", "COMPLETED")


def answering(gate: Gate, text: str) -> Any:
    @stage(text, retry=ONCE)
    async def body(ctx: StageContext[Doc]) -> Doc:
        await gate.admit(ctx)
        return Doc(text=text)

    return body


class PoisonRefused(HeldStore):
    async def append(self, append: Append, /) -> bool:
        if append.mode == "owned" and b'"poison"' in (append.bodies or b""):
            await checkpoint()
            raise PayloadRefused("An append", "too large for the store", field="events")
        return await super().append(append)


async def test_parking_that_meets_a_foreign_append_still_ends_with_the_run_parked():
    held, gate = HeldStore(), Gate()
    place = in_memory(held)
    old, changed = gate.workflow("w"), gate.workflow("w", stage_id="renamed")
    async with place.client(old) as client:
        run = await client.start(old, Doc(text="x"))
        held.before = parks
        async with place.supervisor(changed) as supervisor:
            await until(lambda: held.held)
            held.hold_nothing_new()
            await client.kernel.dispatch(TransitionRun(run_id=run.id))
            held.let_go()
            await until(lambda: supervisor.stats().actors == 0)
            head = await until(lambda: parked(held, run.id))
    assert head.owner is None


async def parked(held: HeldStore, run_id: str) -> Any:
    head = (await held.load(run_id)).head
    return head if head.parked_reason is not None else None
