"""The table of commands leads to functions that exist and take what they are given."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import get_args, get_type_hints

import pytest

from runtime.commandline.entry import _CARRIED_OUT_BY
from runtime.commandline.invocation import Command


def test_every_command_is_carried_out_by_something() -> None:
    assert set(_CARRIED_OUT_BY) == set(get_args(Command))


@pytest.mark.parametrize("command", _CARRIED_OUT_BY)
def test_what_carries_out_a_command_takes_that_command_and_returns_an_exit_code(command: type[object]) -> None:
    module, _, name = _CARRIED_OUT_BY[command].partition(":")
    function = getattr(import_module(module), name)

    takes, _ = inspect.signature(function).parameters
    hints = get_type_hints(function)
    assert (hints[takes], hints["return"]) == (command, int)
