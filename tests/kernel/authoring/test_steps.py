from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from kernel import DefinitionChanged, InvalidOutput, InvalidStage, PayloadRefused


class Pixels(BaseModel):
    width: int


class Camera:
    """Counts how often it is used."""

    def __init__(self) -> None:
        self.shots = 0

    async def shoot(self, width: int) -> Pixels:
        self.shots += 1
        return Pixels(width=width)

    def shoot_now(self, width: int) -> Pixels:
        self.shots += 1
        return Pixels(width=width)


def test_a_step_is_done_once_however_often_the_body_is_started(a_context, finish) -> None:
    camera = Camera()

    results = [finish(a_context().step("shoot", camera.shoot, 3)) for _attempt in range(3)]

    assert results == [Pixels(width=3)] * 3
    assert camera.shots == 1


def test_plain_and_blocking_functions_are_recorded_alike(a_context, finish) -> None:
    camera = Camera()

    assert a_context().step.blocking("shoot", camera.shoot_now, 3) == Pixels(width=3)
    assert finish(a_context().step("shoot", camera.shoot_now, 3)) == Pixels(width=3)
    assert camera.shots == 1


def test_the_first_attempt_sees_what_later_ones_will(a_context, finish) -> None:
    shared = {"a": [1]}

    def share() -> Any:
        return shared

    result = finish(a_context().step("share", share))

    assert result == shared
    assert result is not shared


def test_steps_are_told_apart_by_position(a_context, finish) -> None:
    def two_steps() -> list[Pixels]:
        ctx, camera = a_context(), Camera()
        return [finish(ctx.step("shoot", camera.shoot, width)) for width in (1, 2)]

    assert two_steps() == two_steps() == [Pixels(width=1), Pixels(width=2)]


def test_another_name_at_the_same_position_means_that_the_code_changed(a_context, finish) -> None:
    finish(a_context().step("shoot", Camera().shoot, 1))

    with pytest.raises(DefinitionChanged, match='step 0 was recorded as "shoot" and is now "develop"'):
        finish(a_context().step("develop", Camera().shoot, 1))


def test_a_step_that_raises_is_not_recorded_and_can_be_repeated_in_the_same_attempt(a_context, port, finish) -> None:
    def fail() -> int:
        raise OSError("no film")

    ctx = a_context()
    with pytest.raises(OSError, match="no film"):
        finish(ctx.step("shoot", fail))
    finish(ctx.step("shoot", Camera().shoot, 1))

    assert [step.name for step in port.steps.recorded] == ["shoot"]


def test_a_step_inside_a_step_is_refused(a_context, finish) -> None:
    ctx = a_context()

    def outer() -> int:
        return ctx.step.blocking("inner", lambda: 1)

    with pytest.raises(InvalidStage, match='step "inner" begins while step "outer" is being done'):
        finish(ctx.step("outer", outer))


@pytest.mark.parametrize("name", ["", None, "a\n", "x" * 201])
def test_a_step_needs_a_name(a_context, finish, name) -> None:
    with pytest.raises(InvalidStage, match="step's name must be"):
        finish(a_context().step(name, lambda: 1))


def test_a_result_that_is_not_what_the_function_promises_is_refused(a_context, port, finish) -> None:
    def lie() -> int:
        return "three"  # type: ignore[return-value]

    with pytest.raises(InvalidOutput, match='step "lie" of stage "resize"'):
        finish(a_context().step("lie", lie))

    assert port.steps.recorded == []


def test_a_result_without_a_json_form_is_refused(a_context, finish) -> None:
    def promise() -> Camera: ...

    with pytest.raises(PayloadRefused):
        finish(a_context().step("object", object))
    with pytest.raises(InvalidStage, match='result of step "camera" cannot be recorded: Camera'):
        finish(a_context().step("camera", promise))


def test_a_function_without_annotations_gives_plain_json(a_context, finish) -> None:
    assert finish(a_context().step("plain", lambda: Pixels(width=1))) == {"width": 1}
