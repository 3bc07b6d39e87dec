"""Changed copies: what dataclasses.replace gives, and nothing that it would refuse."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest

from kernel.replace import replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    y: int = 0
    marks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    x: int

    def __post_init__(self) -> None:
        assert self.x > 0


def test_a_copy_has_the_changes_and_everything_else_of_the_old_value():
    old = Point(x=1, y=2, marks=["a"])

    new = replace(old, y=3)

    assert new == dataclasses.replace(old, y=3) == Point(x=1, y=3, marks=["a"])
    assert old == Point(x=1, y=2, marks=["a"])
    assert new.marks is old.marks


def test_none_is_a_value_like_any_other():
    assert replace(Point(x=1), x=None).x is None


def test_a_copy_is_as_frozen_as_the_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        replace(Point(x=1), y=2).y = 3


def test_a_field_that_the_value_does_not_have_is_refused():
    with pytest.raises(TypeError, match="z"):
        replace(Point(x=1), z=1)


def test_a_class_that_checks_itself_when_it_is_made_is_refused():
    with pytest.raises(TypeError, match="Checked has a __post_init__"):
        replace(Checked(x=1), x=-1)
