"""What is said when something goes wrong, and the exit code that a script sees."""

from __future__ import annotations

import io
import json

import pytest

from kernel import (
    DefinitionChanged,
    EngineError,
    ErrorInfo,
    IdempotencyInProgress,
    InvalidCommand,
    InvalidInput,
    NoDatabase,
    RunCancelled,
    RunFailed,
    RunNotFound,
    SchemaOutdated,
    Unavailable,
    WorkflowNotFound,
)
from runtime.commandline.failures import report, report_bug, single
from runtime.commandline.screen import Screen


def said(error: Exception, *, as_json: bool = False) -> tuple[int, str]:
    err = io.StringIO()
    code = report(error, Screen(as_json=as_json, out=io.StringIO(), err=err))
    return code, err.getvalue()


@pytest.mark.parametrize(
    "error,code",
    [
        (RunFailed("r", workflow_id="w", stage_id="s", attempt=1, error=ErrorInfo(type="E", message="m")), 1),
        (RunCancelled("r"), 1),
        (InvalidCommand("x"), 2),
        (InvalidInput("w", [{"loc": ("a",), "msg": "m", "type": "t"}]), 2),
        (WorkflowNotFound("w"), 2),
        (RunNotFound("r"), 2),
        (DefinitionChanged("w", "d"), 2),
        (NoDatabase(), 2),
        (Unavailable("x"), 3),
        (SchemaOutdated(found=None, oldest=1, newest=2), 3),
        (IdempotencyInProgress("k", command_type="c"), 3),
    ],
)
def test_the_exit_code_says_who_must_act(error: Exception, code: int) -> None:
    assert said(error)[0] == code


def test_people_get_the_message_and_the_way_out() -> None:
    _, text = said(EngineError("It is broken.", hint="Mend it."))

    assert text == "error: It is broken.\nMend it.\n"


def test_machines_get_an_object() -> None:
    _, text = said(RunNotFound("r"), as_json=True)

    error = json.loads(text)["error"]
    assert set(error) == {"type", "message", "field", "hint"}
    assert (error["type"], error["field"]) == ("RunNotFound", "run_id")


def test_an_error_cannot_write_to_the_terminal_by_itself() -> None:
    _, text = said(EngineError("a\x1b[2Jb"))

    assert "\x1b" not in text


def test_a_bug_comes_with_its_traceback_and_what_to_report() -> None:
    err = io.StringIO()
    try:
        raise KeyError("lost")
    except KeyError as error:
        code = report_bug(error, Screen(out=io.StringIO(), err=err))

    assert code == 70
    assert "Traceback (most recent call last)" in err.getvalue()
    assert "KeyError: 'lost'" in err.getvalue()
    assert "Python 3." in err.getvalue()
    assert "report it" in err.getvalue()


def test_one_error_in_groups_is_that_error() -> None:
    error = Unavailable("x")

    assert single(ExceptionGroup("a", [ExceptionGroup("b", [error])])) is error


def test_several_errors_in_a_group_stay_a_group() -> None:
    group = ExceptionGroup("a", [Unavailable("x"), Unavailable("y")])

    assert single(group) is group


def test_a_hint_cannot_write_to_the_terminal_by_itself() -> None:
    _, text = said(EngineError("a", hint="b\x1b[2Jc"))

    assert "\x1b" not in text
