from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import pytest
from pydantic import BaseModel

from kernel import (
    AIConfig,
    CheckContext,
    Failed,
    InvalidStage,
    NotReady,
    Ready,
    RetryPolicy,
    StageContext,
    StageResult,
    Suspend,
    WorkflowBuilder,
    batch_stage,
    stage,
)

if TYPE_CHECKING:
    from nowhere import Unimported

T = TypeVar("T")


class Photo(BaseModel):
    url: str


class Pixels(BaseModel):
    width: int


class Ticket(BaseModel):
    number: str


class ResizeConfig(AIConfig):
    edge: int = 256


@stage("resize")
async def resize(ctx: StageContext[Photo, ResizeConfig]) -> Pixels:
    """Make it smaller.

    And nothing else.
    """
    return Pixels(width=ctx.config.edge)


# -- options ----------------------------------------------------------------------------------------------------------


def test_a_stage_has_sensible_defaults() -> None:
    assert (resize.name, resize.description) == ("resize", "Make it smaller.")
    assert (resize.dependencies, resize.retry, resize.timeout) == ((), RetryPolicy(), None)
    assert (resize.isolation, resize.queue, resize.idempotent) == (None, None, False)


def test_a_stage_keeps_its_function_and_says_where_it_is() -> None:
    assert resize.body.__name__ == "resize"
    assert "test_stage.resize, line" in resize.place


def test_dependencies_are_kept_as_ids_each_once() -> None:
    @stage("label", dependencies=[resize, "other", "resize"])
    def label(ctx: StageContext[None]) -> None: ...

    assert label.dependencies == ("resize", "other")


@pytest.mark.parametrize("bad", ["", " ", "a b", "a:b", "a/b", "a\n", "-a", "x" * 201, None, 3])
def test_an_id_with_the_wrong_letters_is_refused_with_the_rule(bad) -> None:
    with pytest.raises(InvalidStage, match="letters, digits"):
        stage(bad)(lambda _ctx: None)


@pytest.mark.parametrize("good", ["a", "extract-text", "step_1", "v1.2", "_x", "überblick", "x" * 200])
def test_ids_of_letters_digits_and_joints_are_allowed(good) -> None:
    assert stage(good)(lambda _ctx: None).id == good


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"timeout": timedelta(0)}, "timeout is"),
        ({"timeout": 5}, r"timeout is 5.*timedelta\(minutes=5\)"),
        ({"retry": 3}, r"retry is 3.*RetryPolicy"),
        ({"isolation": "thread"}, "isolation is 'thread'"),
        ({"queue": "a b"}, "its queue has characters"),
        ({"dependencies": "resize"}, "not a list"),
        ({"dependencies": [3]}, "3 is not a dependency"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options, complaint) -> None:
    with pytest.raises(InvalidStage, match=complaint):
        stage("label", **options)(lambda _ctx: None)


# -- bodies -----------------------------------------------------------------------------------------------------------


def test_a_generator_cannot_be_a_body() -> None:
    def generator(ctx: StageContext) -> Iterator[int]:
        yield 1

    async def async_generator(ctx: StageContext) -> AsyncIterator[int]:
        yield 1

    for body in (generator, async_generator):
        with pytest.raises(InvalidStage, match=r'is a generator.*Use "return"'):
            stage("label")(body)


@pytest.mark.parametrize("body", [lambda: None, lambda _ctx, _more: None, lambda *, _ctx: None])
def test_a_body_must_be_callable_with_a_context_alone(body) -> None:
    with pytest.raises(InvalidStage, match=r"cannot be called with \(ctx\)"):
        stage("label")(body)


@pytest.mark.parametrize("body", [None, "resize", 3, Photo])
def test_a_body_must_be_a_function(body) -> None:
    with pytest.raises(InvalidStage, match="which is not a function"):
        stage("label")(body)


def test_a_body_may_have_more_parameters_with_defaults() -> None:
    @stage("label", output=None)
    def label(ctx: StageContext[Photo], mood: str = "good") -> None: ...

    assert label.input is Photo


def test_a_body_is_awaited_when_it_is_async_or_returns_an_awaitable() -> None:
    @stage("sync")
    def sync(ctx: StageContext) -> int: ...

    @stage("forwarding")
    def forwarding(ctx: StageContext) -> Awaitable[int]: ...

    @stage("plain-over-async")
    @functools.wraps(resize.body)
    def plain_over_async(ctx: Any) -> Any: ...

    @stage("async-over-plain")
    @functools.wraps(sync.body)
    async def async_over_plain(ctx: Any) -> Any: ...

    assert (resize.is_async, sync.is_async, forwarding.is_async) == (True, False, True)
    assert (plain_over_async.is_async, async_over_plain.is_async) == (True, True)
    assert (forwarding.output, plain_over_async.output, async_over_plain.output) == (int, Pixels, int)


def test_a_bound_method_can_be_a_body() -> None:
    class Service:
        def resize(self, ctx: StageContext[Photo]) -> Pixels: ...

    resized = stage("method")(Service().resize)

    assert (resized.input, resized.output) == (Photo, Pixels)


# -- types from annotations -------------------------------------------------------------------------------------------


def test_the_annotations_tell_input_output_and_config() -> None:
    assert (resize.input, resize.output, resize.config) == (Photo, Pixels, ResizeConfig)


def test_what_is_left_out_of_a_context_means_none() -> None:
    @stage("bare")
    async def bare(ctx: StageContext) -> None: ...

    @stage("only-input")
    async def only_input(ctx: StageContext[Photo]) -> None: ...

    assert (bare.input, bare.output, bare.config) == (None, None, None)
    assert (only_input.input, only_input.config) == (Photo, None)


def test_wrappers_of_results_are_taken_off() -> None:
    @stage("wrapped")
    async def wrapped(ctx: StageContext) -> StageResult[Pixels]: ...

    @stage("either")
    async def either(ctx: StageContext) -> Pixels | StageResult[Pixels]: ...

    @stage("several")
    async def several(ctx: StageContext) -> Pixels | StageResult[Photo] | None: ...

    @stage("never")
    async def never(ctx: StageContext) -> NoReturn: ...

    assert (wrapped.output, either.output, never.output) == (Pixels, Pixels, None)
    assert several.output == Pixels | Photo | None


def test_an_annotated_context_is_understood() -> None:
    @stage("annotated")
    async def annotated(ctx: Annotated[StageContext[Photo], "a remark"]) -> Annotated[StageResult[int], "too"]: ...

    assert (annotated.input, annotated.output) == (Photo, int)


def test_models_of_a_function_are_found_also_when_they_come_after_the_stage() -> None:
    class Before(BaseModel):
        x: int

    @stage("local")
    async def local(ctx: StageContext[Before, LaterConfig]) -> list[After]: ...

    class LaterConfig(BaseModel):
        pass

    class After(BaseModel):
        x: int

    WorkflowBuilder("local", input=Before).pipe(local).build()

    assert (local.input, local.output, local.config) == (Before, list[After], LaterConfig)


def test_a_local_model_that_refers_to_a_later_one_is_completed() -> None:
    class Album(BaseModel):
        cover: Cover

    @stage("local")
    async def local(ctx: StageContext[Album]) -> None: ...

    class Cover(BaseModel):
        url: str

    workflow = WorkflowBuilder("local", input=Album).pipe(local).build()

    assert workflow.encode_input({"cover": {"url": "a"}}) == b'{"cover":{"url":"a"}}'


def test_explicit_types_replace_those_of_the_annotations() -> None:
    @stage("explicit", input=Photo, output=list[int], config=ResizeConfig)
    async def explicit(ctx: StageContext[Unimported]) -> Unimported: ...

    @stage("untyped", input=Photo, output=type(None))
    async def untyped(ctx): ...

    assert (explicit.input, explicit.output, explicit.config) == (Photo, list[int], ResizeConfig)
    assert (untyped.input, untyped.output, untyped.config) == (Photo, None, None)


@pytest.mark.parametrize(
    "annotations, complaint",
    [
        ({"return": "int"}, r"context parameter has no annotation.*StageContext\[Input\]"),
        ({"ctx": StageContext}, "does not say what it returns in the end.*-> Output"),
        ({"ctx": Photo, "return": int}, r"first parameter is annotated as Photo.*StageContext\[Photo\]"),
        ({"ctx": "StageContext[Unimported]", "return": None}, "cannot be resolved: name 'Unimported' is not defined"),
        ({"ctx": "StageContext[", "return": None}, "cannot be resolved"),
        ({"ctx": StageContext, "return": "Nowhere"}, "of the return type cannot be resolved.*TYPE_CHECKING"),
        ({"ctx": StageContext[T], "return": None}, "has the type variable ~T"),
        ({"ctx": StageContext, "return": StageResult}, r"StageResult without a type.*StageResult\[Output\]"),
        ({"ctx": StageContext, "return": Suspend[Ticket] | None}, "annotated to return Suspend.*@batch_stage"),
        ({"ctx": StageContext, "return": types.SimpleNamespace}, "output type cannot be used: SimpleNamespace"),
        ({"ctx": StageContext[Photo, Any], "return": None}, "its config is Any, which is not a pydantic model"),
    ],
)
def test_annotations_that_do_not_tell_the_types_are_refused_with_the_fix(annotations, complaint) -> None:
    def body(ctx): ...

    body.__annotations__ = annotations
    label = stage("label")(body)

    with pytest.raises(InvalidStage, match=f'Stage "label": .*{complaint}'):
        label.resolve()


def test_only_the_mentioned_locals_are_kept_alive() -> None:
    class Large:
        pass

    def define() -> tuple[Any, weakref.ref[Large]]:
        large = Large()

        @stage("local")
        async def local(ctx: StageContext[Photo]) -> Later: ...  # type: ignore[name-defined]  # noqa: F821

        return local, weakref.ref(large)

    local, large = define()

    assert local.id == "local"
    assert large() is None


# -- batch stages -----------------------------------------------------------------------------------------------------


def test_a_batch_stage_has_an_output_and_a_state() -> None:
    @batch_stage("review")
    async def review(ctx: StageContext[Pixels, ResizeConfig]) -> Suspend[Ticket] | StageResult[Photo] | None: ...

    @review.check
    def review_done(state: Ticket, ctx: CheckContext[ResizeConfig]) -> Ready[Photo] | NotReady | Failed: ...

    schemas = review.resolve()

    assert review.output == Photo | None
    assert schemas.state is not None
    assert (schemas.state.type, schemas.body_is_async, schemas.check_is_async) == (Ticket, True, False)


def test_the_state_may_be_declared_by_the_context_alone() -> None:
    @batch_stage("review")
    async def review(ctx: StageContext[Pixels, ResizeConfig, Ticket]) -> Photo: ...

    assert review.resolve().state.type is Ticket


@pytest.mark.parametrize(
    "context, returned, complaint",
    [
        (StageContext[Pixels], Suspend[Ticket], r"does not say what it returns in the end.*Suspend\[State\] \| Output"),
        (StageContext[Pixels], Photo, "nothing says what its suspended state is"),
        (StageContext[Pixels], Suspend | Photo, r"Suspend without a type.*Suspend\[State\]"),
        (StageContext[Pixels], Suspend[int] | Photo, "suspended state is int, which is not a pydantic model"),
        (StageContext[Pixels], Suspend[Ticket] | Suspend[Photo] | None, "suspends with different states"),
        (StageContext[Pixels, ResizeConfig, Photo], Suspend[Ticket] | None, "context says that the state is Photo"),
    ],
)
def test_a_batch_stage_without_a_clear_output_or_state_is_refused(context, returned, complaint) -> None:
    def body(ctx): ...

    body.__annotations__ = {"ctx": context, "return": returned}

    with pytest.raises(InvalidStage, match=complaint):
        batch_stage("review")(body).resolve()


def test_a_check_is_still_a_function() -> None:
    @batch_stage("review")
    def review(ctx: StageContext[Pixels]) -> Suspend[Ticket] | Photo: ...

    @review.check
    def review_done(state: Ticket, ctx: CheckContext) -> Ready[Photo] | NotReady:
        return NotReady()

    assert review_done(Ticket(number="7"), None) == NotReady()


def test_a_second_check_is_refused_naming_both_places() -> None:
    @batch_stage("review")
    def review(ctx: StageContext[Pixels]) -> Suspend[Ticket] | Photo: ...

    @review.check
    def first(state: Ticket, ctx: CheckContext) -> NotReady: ...

    with pytest.raises(InvalidStage, match=r"two check functions: .*first, line \d+ and .*second, line \d+"):

        @review.check
        def second(state: Ticket, ctx: CheckContext) -> NotReady: ...


def test_a_check_of_another_state_is_refused() -> None:
    @batch_stage("review")
    def review(ctx: StageContext[Pixels]) -> Suspend[Ticket] | Photo: ...

    @review.check
    def review_done(state: Photo, ctx: CheckContext) -> NotReady: ...

    with pytest.raises(InvalidStage, match="takes Photo, but the body suspends with Ticket"):
        review.resolve()


def test_a_check_that_takes_too_little_is_refused() -> None:
    @batch_stage("review")
    def review(ctx: StageContext[Pixels]) -> Suspend[Ticket] | Photo: ...

    with pytest.raises(InvalidStage, match=r"cannot be called with \(state, ctx\)"):
        review.check(lambda _state: NotReady())


def test_the_types_of_a_check_may_be_local_to_where_it_is_defined() -> None:
    @batch_stage("review")
    def review(ctx: StageContext[Pixels]) -> Suspend[Ticket] | Photo: ...

    def register() -> None:
        class LocalTicket(Ticket):
            pass

        @review.check
        def review_done(state: LocalTicket, ctx: CheckContext) -> NotReady: ...

    register()

    with pytest.raises(InvalidStage, match="takes LocalTicket, but the body suspends with Ticket"):
        review.resolve()


# -- estimates and child processes ------------------------------------------------------------------------------------


def test_a_stage_has_one_estimate() -> None:
    @stage("label")
    def label(ctx: StageContext[Pixels, ResizeConfig]) -> None: ...

    @label.estimate
    def cost(run_input: Any, config: ResizeConfig) -> Decimal:
        return Decimal(config.edge)

    assert label.estimate_function is cost
    with pytest.raises(InvalidStage, match="two estimate functions"):
        label.estimate(cost)


def module_with(source: str, name: str = "authoring_process_stages") -> types.ModuleType:
    module = types.ModuleType(name)
    header = "from kernel import StageContext, stage\n"
    exec(compile(header + source, f"{name}.py", "exec"), module.__dict__)
    return module


def test_a_stage_for_a_child_process_is_found_by_its_name(monkeypatch) -> None:
    module = module_with(f"{PROCESS}\n{WORK}")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    module.work.check_runnable()

    assert module.work.reference == "authoring_process_stages:work"


WORK = "def work(ctx: StageContext) -> int: ..."
PROCESS = '@stage("work", isolation="process")'


@pytest.mark.parametrize(
    "source",
    [
        f'{WORK}\nother = stage("work", isolation="process")(work)',
        f"def make():\n    {PROCESS}\n    {WORK}\n    return work\nother = make()",
        'other = stage("work", isolation="process")(lambda ctx: 1)',
    ],
)
def test_a_stage_that_a_child_process_could_not_find_is_refused(monkeypatch, source) -> None:
    module = module_with(source)
    monkeypatch.setitem(sys.modules, module.__name__, module)

    with pytest.raises(InvalidStage, match=r"authoring_process_stages:.* is not this stage.* top level"):
        module.other.check_runnable()


def test_a_stage_of_a_script_cannot_run_in_a_child_process() -> None:
    module = module_with(f"{PROCESS}\n{WORK}", "__main__")

    with pytest.raises(InvalidStage, match="not __main__"):
        module.work.check_runnable()
