"""Everything that the kernel hands around is a value: nobody can change it behind somebody else's back."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import kernel.commands
import kernel.model
import kernel.ports

PACKAGES = (kernel.model, kernel.commands, kernel.ports)
OTHERS = ("kernel.dispatch", "kernel.errors", "kernel.events", "kernel.payloads")


def values() -> Iterator[type[Any]]:
    names = [
        info.name for package in PACKAGES for info in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
    ]
    for name in (*names, *OTHERS):
        for thing in vars(importlib.import_module(name)).values():
            if inspect.isclass(thing) and is_dataclass(thing) and thing.__module__ == name:
                yield thing


def test_a_value_cannot_be_changed() -> None:
    changeable = [value for value in values() if not value.__dataclass_params__.frozen]

    assert changeable == []


def test_the_values_are_found() -> None:
    found = {value.__name__ for value in values()}

    assert {"RunState", "StageStarted", "CreateRun", "Append", "Attempt", "ErrorInfo", "RunCompleted"} <= found
