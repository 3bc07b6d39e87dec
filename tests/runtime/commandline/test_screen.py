"""Which stream gets what, and when there is colour."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from runtime.commandline.layout import Column, Span, line
from runtime.commandline.screen import Screen
from telemetry.logs import configure_logging, get_logger


@pytest.fixture
def terminal() -> Iterator[tuple[TextIO, int]]:
    """A stream that is a terminal, and the descriptor from which its other side reads."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        yield stream, ours
    os.close(ours)


def everything(terminal: tuple[TextIO, int]) -> str:
    """All that was written to the terminal, however many pieces it comes in; nothing more can be written."""
    stream, reader = terminal
    stream.close()
    pieces: list[bytes] = []
    with contextlib.suppress(OSError):  # EIO: the other side is closed and everything was read
        while piece := os.read(reader, 100_000):
            pieces.append(piece)
    return b"".join(pieces).decode()


def test_results_and_remarks_go_to_different_streams() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out=out, err=err)

    screen.line("a result")
    screen.note("a remark")

    assert (out.getvalue(), err.getvalue()) == ("a result\n", "a remark\n")


def test_json_is_one_line_for_each_value_and_keeps_its_letters() -> None:
    out = io.StringIO()
    screen = Screen(as_json=True, out=out, err=io.StringIO())

    screen.json({"name": "Zoë", "n": 1.5})
    screen.json([None])

    assert [json.loads(each) for each in out.getvalue().splitlines()] == [{"name": "Zoë", "n": 1.5}, [None]]
    assert "Zoë" in out.getvalue()


def test_there_is_no_colour_in_a_pipe() -> None:
    out = io.StringIO()
    screen = Screen(out=out, err=out)

    screen.line(Span("red", "red"))

    assert out.getvalue() == "red\n"


def test_there_is_colour_on_a_terminal(terminal: tuple[TextIO, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream, _ = terminal

    Screen(out=stream, err=stream).line(Span("red", "red"), " plain")

    assert everything(terminal) == "\x1b[31mred\x1b[0m plain\r\n"


@pytest.mark.parametrize("name,value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_declined(
    terminal: tuple[TextIO, int], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(name, value)
    stream, _ = terminal

    Screen(out=stream, err=stream).line(Span("red", "bold red"))

    assert everything(terminal) == "red\r\n"


def test_users_text_is_not_read_as_markup(terminal: tuple[TextIO, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream, _ = terminal

    Screen(out=stream, err=stream).line("[red]x[/red] :smile: 12")

    assert everything(terminal) == "[red]x[/red] :smile: 12\r\n"


def test_a_table_fits_the_terminal(terminal: tuple[TextIO, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "20")
    stream, _ = terminal

    Screen(out=stream, err=stream).table((Column("A"), Column("B", flexible=True)), [("a", "b" * 50)])

    assert everything(terminal).split("\r\n")[1] == "a  " + "b" * 16 + "…"


def test_there_is_no_live_area_in_a_pipe() -> None:
    with Screen(out=io.StringIO(), err=io.StringIO()).live() as draw:
        assert draw is None


def test_a_live_area_shows_the_last_drawing(terminal: tuple[TextIO, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream, _ = terminal

    with Screen(out=stream, err=stream).live() as draw:
        assert draw is not None
        draw([line("first")])
        draw([line("second")])

    assert "second" in everything(terminal)


@pytest.mark.parametrize("logs", ["configured", "by default"])
def test_what_is_logged_while_an_area_is_drawn_has_a_line_of_its_own_above_it(
    terminal: tuple[TextIO, int], monkeypatch: pytest.MonkeyPatch, logs: str
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream, reader = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    if logs == "configured":
        configure_logging("console", "warning", colour=False)
    else:
        # pytest has handlers of its own, which an ordinary program has not.
        monkeypatch.setattr(logging.getLogger(), "handlers", [])

    with Screen(out=stream, err=stream).live() as draw:
        assert draw is not None
        draw([line("the area")])
        drawn = b""
        while b"the area" not in drawn:
            drawn += os.read(reader, 1000)
        get_logger("leasehold.test").warning("store.unavailable", error="gone")

    [said] = [text for text in everything(terminal).split("\r\n") if "store.unavailable" in text]
    cleared, _, ours = said.rpartition("\x1b[2K")
    assert cleared, "what was drawn has to be cleared away before"
    assert ours.endswith("error=gone")


def test_a_character_that_the_stream_cannot_show_is_replaced() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")

    Screen(out=out, err=out).line("✓ done")

    assert raw.getvalue() == b"? done\n"


@pytest.mark.parametrize("redirection,reason", [(">/dev/full", "No space left"), (">&-", "closed")])
@pytest.mark.parametrize("words", ["--help", "config", "config --json"])
def test_a_result_that_cannot_be_written_is_one_line_and_an_exit_code(
    words: str, redirection: str, reason: str
) -> None:
    command = f'exec "$0" -m runtime {words} {redirection}'

    done = subprocess.run(
        ["sh", "-c", command, sys.executable], check=False, stderr=subprocess.PIPE, text=True, timeout=60
    )

    assert done.returncode == 2, done.stderr
    [said] = done.stderr.splitlines()
    assert "cannot be written" in said
    assert reason in said


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_a_remark_that_cannot_be_written_changes_nothing(redirection: str) -> None:
    command = f'exec "$0" -m runtime config {redirection}'
    environ = {**os.environ, "LEASEHOLD_NO_SUCH_SETTING": "1"}

    done = subprocess.run(
        ["sh", "-c", command, sys.executable], check=False, stdout=subprocess.PIPE, env=environ, timeout=60
    )

    assert done.returncode == 0
    assert b"max_runs" in done.stdout
