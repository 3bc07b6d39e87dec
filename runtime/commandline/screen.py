"""Where output goes: results to standard output, everything about them to standard error.

Colour and live areas need rich (the `[cli]` extra) and a terminal, and respect NO_COLOR and TERM=dumb; without them
the same lines come out plain. Nothing else in the command line knows rich.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from kernel.errors import InvalidCommand
from runtime.commandline.layout import Cell, Column, Line, line, table, text_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["CannotWrite", "Screen"]

Draw = Callable[[Sequence[Line]], None]


class CannotWrite(InvalidCommand):
    """A result could not be written to where it was sent: a full disk, a closed stream."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"The result cannot be written to standard output: {error.strerror or error}.", field="output")


class Screen:
    """The two streams of one command. `as_json`: results are for machines, so no human words go to `out`."""

    def __init__(self, *, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        # Python has no stream at all where the shell closed one.
        self._out = _forgiving(out or sys.stdout or _Closed())
        self._err = _forgiving(err or sys.stderr or _Closed())
        self._consoles: dict[TextIO, Console | None] = {}

    # -- results -------------------------------------------------------------------------------------------------

    def json(self, value: object) -> None:
        """One JSON value on a line of its own."""
        self.raw(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")

    def raw(self, text: str) -> None:
        """Text as it is, such as SQL. Raises: CannotWrite, as everything that writes results."""
        with self._writing(self._out):
            self._out.write(text)
            self._out.flush()

    def raw_bytes(self, data: bytes) -> None:
        """Bytes as they are; to a stream that takes only text, the text that they are."""
        binary = getattr(self._out, "buffer", None)
        if binary is None:
            self.raw(data.decode(errors="replace"))
            return
        with self._writing(self._out):
            self._out.flush()
            binary.write(data)
            binary.flush()

    def line(self, *parts: Cell) -> None:
        """One line of a result."""
        self._write(self._out, line(*parts))

    def lines(self, lines: Sequence[Line]) -> None:
        """Several lines of a result."""
        for each in lines:
            self._write(self._out, each)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, wrap: bool = False) -> None:
        """A table; on a terminal it is made to fit, and with `wrap` also to what COLUMNS says of wherever it goes."""
        self.lines(table(columns, rows, width=self.wrap_width if wrap else self.width, wrap=wrap))

    @property
    def width(self) -> int | None:
        """Cells in a line of the terminal; None when the result goes elsewhere, where nothing must be cut."""
        return shutil.get_terminal_size().columns if _is_terminal(self._out) else None

    @property
    def wrap_width(self) -> int | None:
        """Where text is wrapped, of which nothing is cut: as `width`, or what COLUMNS says of wherever it goes."""
        if self.width is None and os.environ.get("COLUMNS"):
            return shutil.get_terminal_size().columns
        return self.width

    # -- about results -------------------------------------------------------------------------------------------

    def note(self, *parts: Cell) -> None:
        """One line about what happens, on standard error."""
        self._write(self._err, line(*parts))

    def note_raw(self, text: str) -> None:
        """Text about what happens, as it is."""
        with self._writing(self._err):
            self._err.write(text)
            self._err.flush()

    def error_json(self, value: object) -> None:
        """One JSON value on standard error."""
        self.note_raw(json.dumps(value, ensure_ascii=False, default=str) + "\n")

    @property
    def talks_to_terminal(self) -> bool:
        """Whether somebody sees standard error as it is written."""
        return _is_terminal(self._err)

    @contextmanager
    def live(self) -> Generator[Draw | None]:
        """An area at the bottom of the terminal that is drawn anew; None where there cannot be one.

        Notes written meanwhile go above it. It is gone at the end.
        """
        console = self._console(self._err)
        if console is None:
            yield None
            return
        from rich.live import Live
        from rich.text import Text

        with Live(console=console, refresh_per_second=12, transient=True) as area:
            yield lambda lines: area.update(Text("\n").join(_styled(each) for each in lines))

    # -- how -----------------------------------------------------------------------------------------------------

    def _write(self, stream: TextIO, spans: Line) -> None:
        console = self._console(stream)
        with self._writing(stream):
            if console is None:
                stream.write(text_of(spans) + "\n")
            else:
                console.print(_styled(spans), soft_wrap=True, highlight=False)
            stream.flush()

    @contextmanager
    def _writing(self, stream: TextIO) -> Generator[None]:
        """A result that gets lost is an error; a remark about it is not worth one."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            _abandon(stream)
            if stream is self._out:
                raise CannotWrite(error) from error

    def _console(self, stream: TextIO) -> Console | None:
        if stream not in self._consoles:
            self._consoles[stream] = _rich_console(stream)
        return self._consoles[stream]


def _styled(spans: Line) -> Text:
    from rich.text import Text

    return Text.assemble(*((span.text, span.style) for span in spans))


def _rich_console(stream: TextIO) -> Console | None:
    # rich would leave out the colours alone; whoever asks for none wants text.
    if not _is_terminal(stream) or os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR"):
        return None
    if importlib.util.find_spec("rich") is None:
        return None
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


class _Closed(io.StringIO):
    """Stands for a stream that the process was started without."""

    def write(self, _text: str, /) -> int:
        raise OSError(errno.EBADF, "it is closed")


def _abandon(stream: TextIO) -> None:
    # What is still in the buffer would fail again when Python flushes it at exit, with a complaint and another code.
    try:
        descriptor = stream.fileno()
    except OSError:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def _forgiving(stream: TextIO) -> TextIO:
    # A terminal that cannot show a character should show another one instead of ending the command.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    return stream
