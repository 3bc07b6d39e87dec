"""One run in one call."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import anyio
import pytest

from kernel import InvalidInput, RetryPolicy, RunFailed, StageContext, WorkflowBuilder, stage
from runtime import App, RunInfo, run_and_wait
from tests.runtime.gates import Doc, echo, failing, three_stages

pytestmark = pytest.mark.anyio

ECHO = echo()
MEMORY = "memory://"


@stage("slow")
async def reporting(ctx: StageContext[Doc]) -> Doc:
    for share in (0.25, 0.5):
        ctx.progress(share, f"at {share}")
        ctx.log("info", "said")
    return ctx.input


REPORTING = WorkflowBuilder("reporting", input=Doc, output=Doc).pipe(reporting).build()


async def test_it_returns_the_output():
    assert await run_and_wait(App(workflows=[ECHO]), ECHO, Doc(text="x"), database=MEMORY) == Doc(text="x")


async def test_the_run_is_shown_after_each_change_and_last_at_its_end():
    flow, shown = three_stages([]), list[RunInfo]()

    await run_and_wait(App(workflows=[flow]), flow, Doc(text="x"), database=MEMORY, on_change=shown.append)

    completed = [sum(stage.status == "COMPLETED" for stage in info.stages or ()) for info in shown]
    assert completed == sorted(completed)
    assert completed[-1] == 3
    assert [info.status for info in shown][-1] == "COMPLETED"
    assert all(one != next for one, next in pairwise(shown))
    assert len({info.id for info in shown}) == 1


async def test_a_log_line_is_no_change():
    shown: list[RunInfo] = []

    await run_and_wait(App(workflows=[REPORTING]), REPORTING, Doc(text="x"), database=MEMORY, on_change=shown.append)

    # Created and started are one append, and progress may be known before or after the end.
    assert len(shown) <= 4


@pytest.mark.parametrize("end", ["completes", "fails", "is refused", "is cancelled"])
async def test_what_it_has_opened_is_closed_whatever_happens(end: str):
    told, scope = list[str](), anyio.CancelScope()

    @asynccontextmanager
    async def service() -> AsyncGenerator[str]:
        told.append("opened")
        yield "service"
        told.append("closed")

    @stage("end", retry=RetryPolicy(max_attempts=1))
    async def comes_to(ctx: StageContext[Doc]) -> Doc:
        if end == "is cancelled":
            scope.cancel()
            await anyio.sleep_forever()
        if end == "fails":
            raise ValueError(end)
        return ctx.input

    workflow = WorkflowBuilder("ends", input=Doc, output=Doc).pipe(comes_to).build()
    app, given = App(workflows=[workflow], services={"s": service}), {} if end == "is refused" else {"text": "x"}
    with scope, suppress(RunFailed, InvalidInput):
        await run_and_wait(app, workflow, given, database=MEMORY)

    assert told == ["opened", "closed"]
    assert scope.cancelled_caught is (end == "is cancelled")


async def test_a_run_that_fails_is_shown_and_its_error_raised():
    flow, shown = failing(ValueError, retry=None), list[RunInfo]()

    with pytest.raises(RunFailed, match="ValueError: x"):
        await run_and_wait(App(workflows=[flow]), flow, Doc(text="x"), database=MEMORY, on_change=shown.append)

    assert shown[-1].status == "FAILED"
    assert shown[-1].error is not None


async def test_what_the_callback_raises_comes_out_bare():
    def refuse(_info: RunInfo) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        await run_and_wait(App(workflows=[ECHO]), ECHO, Doc(text="x"), database=MEMORY, on_change=refuse)


async def test_an_input_that_is_refused_is_refused_as_by_start():
    with pytest.raises(InvalidInput):
        await run_and_wait(App(workflows=[ECHO]), ECHO, {"txet": "x"}, database=MEMORY)  # type: ignore[arg-type]
