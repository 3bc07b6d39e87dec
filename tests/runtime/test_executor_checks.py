"""Calling the check of a suspended stage: the same isolation as for bodies."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from pydantic import BaseModel

from kernel import CheckContext, Failed, NonRetryable, NotReady, Ready, StageContext, Suspend, batch_stage
from kernel.ports.executor import CheckFailed, CheckNotReady, CheckRaised, CheckReady
from tests.runtime.executing import NOW, Bench, check_of

pytestmark = pytest.mark.anyio


class Waiting(BaseModel):
    batch: str


class Options(BaseModel):
    patience: int = 3


def checked_by(check, *, timeout: timedelta | None = None):
    """A batch stage with this check, ready to be checked."""

    @batch_stage("embed", timeout=timeout)
    async def embed(ctx: StageContext[None, Options]) -> Suspend[Waiting] | int:
        return Suspend(state=Waiting(batch="b"))

    embed.check(check)
    return embed


async def call(check, *, bench: Bench | None = None, state: object = None, config=None, stage_timeout=None):
    stage = checked_by(check, timeout=stage_timeout)
    return await (bench or Bench()).executor.check(check_of(stage, state or {"batch": "b1"}, config=config))


async def test_a_check_that_is_ready_gives_the_stages_output() -> None:
    async def check(state: Waiting, ctx: CheckContext[Options]) -> Ready[int]:
        ctx.annotate("decision.outcome", "done")
        return Ready(ctx.config.patience, metrics={"asked": 2}, artifacts={"raw": b"x"})

    outcome = await call(check)

    assert isinstance(outcome, CheckReady)
    assert (outcome.output, outcome.metrics, outcome.artifacts) == (b"3", {"asked": 2.0}, {"raw": b"x"})
    assert [note.key for note in outcome.notes] == ["decision.outcome"]


async def test_a_check_may_be_a_def() -> None:
    def check(state: Waiting, ctx: CheckContext[Options]) -> NotReady:
        return NotReady(next_check_in=timedelta(seconds=9), state=Waiting(batch=state.batch + "!"))

    outcome = await call(check)

    assert outcome == CheckNotReady(next_check_in_s=9.0, state=b'{"batch":"b1!"}')


async def test_a_check_that_is_not_ready_may_leave_the_rest_open() -> None:
    async def check(state: Waiting, ctx: CheckContext[Options]) -> NotReady:
        return NotReady()

    assert await call(check) == CheckNotReady(next_check_in_s=None, state=None)


@pytest.mark.parametrize("retry", [True, False])
async def test_a_check_that_fails_says_whether_to_try_the_stage_again(retry) -> None:
    async def check(state: Waiting, ctx: CheckContext[Options]) -> Failed:
        return Failed("the batch was lost \0", retry=retry)

    outcome = await call(check)

    assert isinstance(outcome, CheckFailed)
    assert (outcome.retry, outcome.error.message) == (retry, "the batch was lost \ufffd")


async def test_a_check_that_raises_is_told_apart_from_one_that_fails() -> None:
    async def check(state: Waiting, ctx: CheckContext[Options]) -> NotReady:
        raise ConnectionError("no route")

    outcome = await call(check)

    assert isinstance(outcome, CheckRaised)
    assert (outcome.error.type, outcome.error.message, outcome.error.retryable) == ("ConnectionError", "no route", True)


async def test_a_check_decides_that_it_need_not_be_asked_again() -> None:
    def check(state: Waiting, ctx: CheckContext[Options]) -> NotReady:
        raise NonRetryable("wrong account")

    outcome = await call(check)

    assert isinstance(outcome, CheckRaised)
    assert outcome.error.retryable is False


@pytest.mark.parametrize(
    "answer, error", [(Ready(), "InvalidOutput"), (Ready("text"), "InvalidOutput"), (None, "InvalidStage")]
)
async def test_an_answer_that_the_stage_cannot_have_is_never_retried(answer, error) -> None:
    async def check(state: Waiting, ctx: CheckContext[Options]):
        return answer

    outcome = await call(check)

    assert isinstance(outcome, CheckRaised)
    assert (outcome.error.type, outcome.error.retryable) == (error, False)


@pytest.mark.parametrize(
    "state, config, error",
    [({"job": 1}, {}, "InvalidInput"), (None, {"embed": {"patience": "none"}}, "InvalidConfig")],
)
async def test_a_state_that_todays_model_refuses_is_never_retried(state, config, error) -> None:
    async def check(state: Waiting, ctx: CheckContext[Options]) -> NotReady:
        return NotReady()

    outcome = await call(check, state=state, config=config)

    assert isinstance(outcome, CheckRaised)
    assert (outcome.error.type, outcome.error.retryable) == (error, False)


async def test_a_check_that_never_answers_is_interrupted() -> None:
    seen = []

    async def check(state: Waiting, ctx: CheckContext[Options]) -> NotReady:
        seen.append(ctx.deadline)
        await anyio.sleep_forever()
        return NotReady()

    bound = timedelta(milliseconds=20)
    outcome = await call(check, bench=Bench(check_timeout=bound))

    assert isinstance(outcome, CheckRaised)
    assert (outcome.cause, outcome.error.retryable) == ("timeout", True)
    assert "the check of" in outcome.error.message
    assert seen == [NOW + bound]


async def test_a_check_may_take_as_long_as_its_stage() -> None:
    seen = []

    async def check(state: Waiting, ctx: CheckContext[Options]) -> NotReady:
        seen.append(ctx.deadline)
        return NotReady()

    await call(check, stage_timeout=timedelta(hours=1))

    assert seen == [NOW + timedelta(hours=1)]


async def test_a_check_has_no_steps() -> None:
    async def check(state: Waiting, ctx: CheckContext[Options]) -> NotReady:
        await ctx.step("count", int)
        return NotReady()

    outcome = await call(check)

    assert isinstance(outcome, CheckRaised)
    assert (outcome.error.type, outcome.error.retryable) == ("InvalidStage", False)


async def test_a_check_logs_with_the_attempt_that_suspended() -> None:
    async def check(state: Waiting, ctx: CheckContext[Options]) -> NotReady:
        ctx.log("warning", "still waiting", batch=state.batch)
        return NotReady()

    bench = Bench()
    await call(check, bench=bench)

    (line,) = await bench.written()
    assert (line.stage_id, line.attempt, line.level, line.fields) == ("embed", 1, "WARN", {"batch": "b1"})
