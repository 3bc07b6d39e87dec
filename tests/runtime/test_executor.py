"""What bodies return and raise, turned into outcomes."""

from __future__ import annotations

import asyncio
import math
import sys
from datetime import timedelta

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel

from kernel import (
    NonRetryable,
    RetryAfter,
    RetryPolicy,
    StageContext,
    StageResult,
    Suspend,
    TypedKey,
    batch_stage,
    stage,
)
from kernel.ports.executor import BodyCompleted, BodySuspended
from tests.runtime.executing import NOW, Bench, attempt_of

pytestmark = pytest.mark.anyio


class Doc(BaseModel):
    path: str


class Text(BaseModel):
    text: str
    words: int = 1


class Options(BaseModel):
    loud: bool = False
    times: int = 2


class Waiting(BaseModel):
    batch: str


class Loud(Exception):
    pass


@stage("extract")
async def extract(ctx: StageContext[Doc, Options]) -> Text:
    return Text(text=ctx.input.path.upper() if ctx.config.loud else ctx.input.path, words=ctx.config.times)


@stage("extract-in-thread")
def extract_in_thread(ctx: StageContext[Doc]) -> Text:
    return Text(text=ctx.input.path)


def raising(error: BaseException, *, retry: RetryPolicy | None = None, in_thread: bool = False):
    """A stage whose body raises this."""
    if in_thread:

        @stage("raising", retry=retry)
        def body_in_thread(ctx: StageContext[None]) -> None:
            raise error

        return body_in_thread

    @stage("raising", retry=retry)
    async def body(ctx: StageContext[None]) -> None:
        raise error

    return body


@pytest.mark.parametrize("body", [extract, extract_in_thread], ids=["async", "def"])
async def test_what_a_body_returns_is_validated_and_encoded(body) -> None:
    outcome = await Bench().run(body, Doc(path="a.txt"))

    assert isinstance(outcome, BodyCompleted)
    assert Text.model_validate_json(outcome.output).text == "a.txt"


async def test_a_body_is_given_its_configuration_with_defaults() -> None:
    outcome = await Bench().run(extract, Doc(path="a"), config={"extract": {"loud": True}})

    assert outcome.output == b'{"text":"A","words":2}'


async def test_a_body_knows_who_it_is_and_how_long_it_has() -> None:
    seen = []

    @stage("curious", name="Curious", timeout=timedelta(minutes=5))
    async def curious(ctx: StageContext[Doc]) -> None:
        seen.append((ctx.run_id, ctx.workflow_id, ctx.stage_id, ctx.stage_name, ctx.stage_number))
        seen.append((ctx.execution, ctx.attempt, ctx.resume_state, ctx.deadline, ctx.cancelled))

    await Bench().run(curious, Doc(path="a"))

    assert seen == [("run-1", "w", "curious", "Curious", 1), (1, 1, None, NOW + timedelta(minutes=5), False)]


async def test_metrics_and_artifacts_are_part_of_the_outcome() -> None:
    @stage("measured")
    async def measured(ctx: StageContext[None]) -> StageResult[int]:
        return StageResult(1, metrics={"pages": 3}, artifacts={"raw": b"\x00\xff", "table": [1, 2]})

    outcome = await Bench().run(measured)

    assert outcome.metrics == {"pages": 3.0}
    assert outcome.artifacts == {"raw": b"\x00\xff", "table": b"[1,2]"}


async def test_a_metric_that_is_no_finite_number_fails_the_attempt() -> None:
    @stage("measured")
    async def measured(ctx: StageContext[None]) -> StageResult[int]:
        return StageResult(1, metrics={"pages": math.nan})

    outcome = await Bench().run(measured)

    assert outcome.error.type == "ValueError"
    assert "metrics['pages'] must be a finite number" in outcome.error.message


@pytest.mark.parametrize(
    "given, config, error, word",
    [
        ({"file": "a"}, {}, "InvalidInput", "path"),
        ({"path": "a"}, {"extract": {"times": "many"}}, "InvalidConfig", "times"),
    ],
)
async def test_input_and_config_that_do_not_fit_are_never_retried(given, config, error, word) -> None:
    outcome = await Bench().run(extract, given, config=config)

    assert (outcome.error.type, outcome.error.retryable) == (error, False)
    assert word in outcome.error.message


async def test_a_body_is_not_called_with_an_input_that_does_not_fit() -> None:
    called: list[str] = []

    @stage("called")
    async def body(ctx: StageContext[Doc]) -> None:
        called.append(ctx.input.path)

    assert (await Bench().run(body, {"file": "a"})).error.type == "InvalidInput"
    assert called == []
    await Bench().run(body, {"path": "a"})
    assert called == ["a"]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_an_output_that_does_not_fit_is_never_retried(in_thread) -> None:
    def wrong(ctx: StageContext[None]) -> Text:
        return {"text": 3}

    async def wrong_async(ctx: StageContext[None]) -> Text:
        return {"text": 3}

    outcome = await Bench().run(stage("wrong")(wrong if in_thread else wrong_async))

    assert (outcome.error.type, outcome.error.retryable) == ("InvalidOutput", False)
    assert "text" in outcome.error.message


@pytest.mark.parametrize("in_thread", [False, True])
async def test_an_exception_keeps_its_name_its_message_and_its_traceback(in_thread) -> None:
    outcome = await Bench().run(raising(Loud("too loud"), in_thread=in_thread))

    assert (outcome.cause, outcome.error.type, outcome.error.message) == ("raised", "Loud", "too loud")
    assert outcome.error.retryable
    first, *_rest, last = outcome.error.traceback.strip().splitlines()
    assert first == "Traceback (most recent call last):"
    assert "Loud: too loud" in last
    assert "runtime/bodies.py" not in outcome.error.traceback
    assert "raise error" in outcome.error.traceback


async def test_the_body_decides_that_it_will_not_be_retried() -> None:
    outcome = await Bench().run(raising(NonRetryable("no such customer")))

    assert (outcome.error.type, outcome.error.retryable) == ("NonRetryable", False)


async def test_the_policy_names_classes_that_are_not_retried() -> None:
    outcome = await Bench().run(raising(Loud(), retry=RetryPolicy(non_retryable=(Loud,))))

    assert outcome.error.retryable is False


async def test_the_body_chooses_the_delay_of_the_next_attempt() -> None:
    outcome = await Bench().run(raising(RetryAfter(timedelta(seconds=9), "busy")))

    assert (outcome.retry_after, outcome.error.message, outcome.error.retryable) == (timedelta(seconds=9), "busy", True)


async def test_a_group_of_exceptions_is_named_by_its_members() -> None:
    @stage("parallel")
    async def parallel(ctx: StageContext[None]) -> None:
        async def fail(error: Exception) -> None:
            raise error

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail, ValueError("bad"))
            tasks.start_soon(fail, NonRetryable("worse"))

    outcome = await Bench().run(parallel)

    assert outcome.error.type == "ExceptionGroup"
    assert "ValueError: bad" in outcome.error.message
    assert "NonRetryable: worse" in outcome.error.message
    assert outcome.error.retryable


async def test_a_group_whose_members_are_all_final_is_final() -> None:
    group = ExceptionGroup("both", [NonRetryable("a"), ExceptionGroup("inner", [Loud("b")])])

    outcome = await Bench().run(raising(group, retry=RetryPolicy(non_retryable=(Loud,))))

    assert outcome.error.retryable is False


async def test_a_group_waits_as_long_as_its_most_patient_member() -> None:
    outcome = await Bench().run(raising(ExceptionGroup("both", [RetryAfter(3), RetryAfter(7), Loud()])))

    assert outcome.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
async def test_a_body_cannot_end_the_process(error, in_thread) -> None:
    outcome = await Bench().run(raising(error, in_thread=in_thread))

    assert (outcome.cause, outcome.error.type) == ("raised", type(error).__name__)


async def test_a_message_that_no_store_can_keep_is_made_storable() -> None:
    outcome = await Bench().run(raising(Loud("nul \0 and lone \ud800 end")))

    assert outcome.error.message == "nul \ufffd and lone \ufffd end"
    outcome.error.traceback.encode()
    assert "\0" not in outcome.error.traceback


async def test_a_huge_message_is_cut_in_the_middle() -> None:
    outcome = await Bench().run(raising(Loud("begin " + "x" * 1_000_000 + " end")))

    assert len(outcome.error.message) <= 8_192
    assert outcome.error.message.startswith("begin ")
    assert outcome.error.message.endswith(" end")
    assert len(outcome.error.traceback) <= 16_384
    assert outcome.error.traceback.startswith("Traceback")


async def test_an_exception_that_cannot_say_what_it_is_is_still_recorded() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    outcome = await Bench().run(raising(Mute()))

    assert outcome.error.type == "Mute"
    assert outcome.error.message == "(its message cannot be shown: RuntimeError)"


async def test_endless_recursion_is_an_ordinary_failure() -> None:
    @stage("deep")
    async def deep(ctx: StageContext[None]) -> None:
        def dig() -> None:
            dig()

        dig()

    outcome = await Bench().run(deep)

    assert outcome.error.type == "RecursionError"
    assert len(outcome.error.traceback) <= 16_384


async def test_a_plain_stage_may_not_suspend() -> None:
    async def body(ctx: StageContext[None]) -> int:
        return Suspend(state=Waiting(batch="b"))

    outcome = await Bench().run(stage("plain")(body))

    assert (outcome.error.type, outcome.error.retryable) == ("InvalidStage", False)
    assert "@batch_stage" in outcome.error.message


@batch_stage("embed")
async def embed(ctx: StageContext[Doc, BaseModel, Waiting]) -> Suspend[Waiting] | Text:
    if ctx.resume_state is not None:
        return Text(text=ctx.resume_state.batch)
    return Suspend(state=Waiting(batch="b1"), poll_interval=timedelta(seconds=5), max_wait=timedelta(minutes=1))


@embed.check
async def embedded(state: Waiting, ctx) -> None: ...


async def test_a_batch_stage_suspends_with_its_state() -> None:
    outcome = await Bench().run(embed, Doc(path="a"))

    assert isinstance(outcome, BodySuspended)
    assert (outcome.state, outcome.poll_interval_s, outcome.max_wait_s) == (b'{"batch":"b1"}', 5.0, 60.0)


async def test_an_attempt_that_resumes_is_given_the_state() -> None:
    outcome = await Bench().run(embed, Doc(path="a"), resume_state=Waiting(batch="b7"))

    assert outcome.output == b'{"text":"b7","words":1}'


@pytest.mark.parametrize(
    "outputs, offloaded, error",
    [({}, frozenset(), "MissingOutput"), ({}, frozenset({"extract"}), "OutputNotLoaded")],
)
async def test_an_output_that_is_not_at_hand_is_never_retried(outputs, offloaded, error) -> None:
    @stage("report")
    async def report(ctx: StageContext[None]) -> str:
        return ctx.require(extract).text

    outcome = await Bench().run(report, after=(extract,), outputs=outputs, offloaded=offloaded)

    assert (outcome.error.type, outcome.error.retryable) == (error, False)


async def test_outputs_of_earlier_stages_are_typed() -> None:
    @stage("report")
    async def report(ctx: StageContext[Text]) -> str:
        return f"{ctx.input.text} {ctx.require(extract).words} {ctx.optional('nobody')}"

    outcome = await Bench().run(report, after=(extract,), outputs={"extract": {"text": "t", "words": 4}})

    assert outcome.output == b'"t 4 None"'


@pytest.mark.parametrize("fails", [False, True])
async def test_annotations_belong_to_the_outcome_be_it_a_success_or_not(fails) -> None:
    confidence = TypedKey("decision.confidence", float)

    @stage("annotating")
    async def annotating(ctx: StageContext[None]) -> None:
        ctx.annotate(confidence, 0.5)
        if fails:
            raise Loud

    outcome = await Bench().run(annotating)

    assert [(note.key, note.value) for note in outcome.notes] == [("decision.confidence", b"0.5")]


async def test_services_reach_the_body() -> None:
    @stage("calling")
    async def calling(ctx: StageContext[None]) -> int:
        return ctx.service("numbers", list)[1]

    outcome = await Bench(services={"numbers": [1, 2]}).run(calling)

    assert outcome.output == b"2"


async def test_steps_are_recorded_in_order_and_not_done_again() -> None:
    done = []

    async def fetch(name: str) -> str:
        done.append(name)
        return name.upper()

    @stage("stepwise")
    async def stepwise(ctx: StageContext[None]) -> str:
        return await ctx.step("first", fetch, "a") + await ctx.step("second", fetch, "b")

    bench = Bench()
    outcome = await bench.run(stepwise, steps=(("first", b'"A"'),))

    assert outcome.output == b'"AB"'
    assert done == ["b"]
    assert bench.steps.recorded == [(1, "second", b'"B"')]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_superseded_body_is_stopped_at_its_next_step(in_thread) -> None:
    after = []

    async def body(ctx: StageContext[None]) -> None:
        try:
            await ctx.step("one", int)
            after.append("went on")
        finally:
            after.append("cleaned up")

    def body_in_thread(ctx: StageContext[None]) -> None:
        try:
            ctx.step.blocking("one", int)
            after.append("went on")
        finally:
            after.append("cleaned up")

    bench = Bench()
    bench.steps.superseded = True
    outcome = await bench.run(stage("stepwise")(body_in_thread if in_thread else body))

    assert outcome.error.type == "Superseded"
    assert after == ["cleaned up"]


async def test_a_changed_order_of_steps_is_never_retried() -> None:
    @stage("stepwise")
    async def stepwise(ctx: StageContext[None]) -> None:
        await ctx.step("renamed", int)

    outcome = await Bench().run(stepwise, steps=(("original", b"0"),))

    assert (outcome.error.type, outcome.error.retryable) == ("DefinitionChanged", False)


@pytest.mark.parametrize("in_thread", [False, True])
async def test_log_lines_and_progress_go_with_the_attempt(in_thread) -> None:
    def talk(ctx: StageContext[None]) -> None:
        ctx.log("info", "begun", pages=3, odd={"when": NOW, "nan": math.nan, "who": object})
        ctx.progress(0.5, "half", pages=1)

    async def talk_async(ctx: StageContext[None]) -> None:
        talk(ctx)

    bench = Bench()
    await bench.run(stage("talking")(talk if in_thread else talk_async))
    line, progress = await bench.written()

    assert (line.run_id, line.stage_id, line.execution, line.attempt, line.at) == ("run-1", "talking", 1, 1, NOW)
    assert (line.level, line.message, line.fields["pages"]) == ("INFO", "begun", 3)
    assert line.fields["odd"] == {"when": "2025-01-01T12:00:00Z", "nan": "nan", "who": "<class 'object'>"}
    assert (progress.level, progress.message) == ("PROGRESS", "half")
    assert progress.fields == {"progress": 0.5, "details": {"pages": 1}}


async def test_logging_never_fails_a_stage() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    @stage("talking")
    async def talking(ctx: StageContext[None]) -> None:
        ctx.log("info", "here", what=Hostile())
        ctx.progress("not a number", what=Hostile())

    bench = Bench()
    outcome = await bench.run(talking)

    assert isinstance(outcome, BodyCompleted)
    assert len(await bench.written()) == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_nobody_asked_for_is_a_failure() -> None:
    @stage("confused")
    async def confused(ctx: StageContext[None]) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    outcome = await Bench().run(confused)

    assert (outcome.error.type, outcome.error.retryable) == ("CancelledError", True)
    assert "nobody had asked for" in outcome.error.message


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelling_the_callers_task_passes_through() -> None:
    begun, cleaned = asyncio.Event(), []

    @stage("waiting")
    async def waiting(ctx: StageContext[None]) -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    task = asyncio.create_task(Bench().run(waiting))
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [True]


async def test_a_stuck_event_loop_can_be_traced_to_its_attempt() -> None:
    def attempt_on_stack() -> object:
        # What the watchdog sees from its thread: the stack of the thread of the event loop.
        frame = sys._getframe()
        while frame.f_code.co_name != "call_body":
            frame = frame.f_back
        return frame.f_locals["attempt"]

    seen = []

    @stage("blocking")
    async def blocking(ctx: StageContext[None]) -> None:
        seen.append(attempt_on_stack())
        await anyio.lowlevel.checkpoint()
        seen.append(attempt_on_stack())

    attempt = attempt_of(blocking)
    await Bench().executor.run(attempt)

    assert [found is attempt for found in seen] == [True, True]
