"""How the values of settings are written: one class per kind, each of which reads what is given or says what it takes.

A value may come as text from the environment or the command line, as a TOML value, or as the Python value itself. The
message of a refusal names the place (`where`: a variable, a key of a file, an argument) and shows a value that works;
which settings exist is not known here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, Protocol, cast

from kernel.authoring.identifiers import IDENTIFIER_RULE, identifier_problem
from kernel.errors import InvalidCommand
from runtime.blob_urls import KNOWN_BLOB_PLACES, blob_place
from runtime.database_urls import KNOWN_KINDS, database_kind

__all__ = ["BlobUrl", "Choice", "Flag", "Folder", "Kind", "Names", "Number", "Seconds", "Text", "Url"]


class Kind(Protocol):
    """Reads the values of a setting."""

    def read(self, value: object, where: str, field: str, /) -> object:
        """The value as Python has it; None stays None. Raises: InvalidCommand, naming `where`."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Any text that is not empty."""

    def read(self, value: object, where: str, field: str, /) -> str | None:
        """The text without blanks around it."""
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            _refuse(value, where, field, takes="a text")
        return value.strip()


@dataclass(frozen=True, slots=True)
class Url:
    """A database URL of a known kind."""

    def read(self, value: object, where: str, field: str, /) -> str | None:
        """The URL, unchanged."""
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            # Not shown: it might hold a password.
            raise InvalidCommand(f"{where} must be a database URL.", field=field, hint=KNOWN_KINDS)
        try:
            database_kind(value.strip())
        except InvalidCommand as error:
            raise InvalidCommand(f"{where}: {error.message}", field=field, hint=error.hint) from None
        return value.strip()


@dataclass(frozen=True, slots=True)
class BlobUrl:
    """A URL that says where blobs lie."""

    def read(self, value: object, where: str, field: str, /) -> str | None:
        """The URL, unchanged."""
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            # Not shown: somebody might have put credentials into it.
            raise InvalidCommand(f"{where} must be the URL of a blob store.", field=field, hint=KNOWN_BLOB_PLACES)
        try:
            blob_place(value.strip())
        except InvalidCommand as error:
            raise InvalidCommand(f"{where}: {error.message}", field=field, hint=error.hint) from None
        return value.strip()


@dataclass(frozen=True, slots=True)
class Folder:
    """A path of a directory, existing or not."""

    def read(self, value: object, where: str, field: str, /) -> Path | None:
        """The path, with a leading ~ replaced."""
        if value is None or isinstance(value, Path):
            return value
        if not isinstance(value, str) or not value.strip():
            _refuse(value, where, field, takes="a path")
        return Path(value.strip()).expanduser()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words, in any case."""

    words: tuple[str, ...]

    def read(self, value: object, where: str, field: str, /) -> str:
        """The word in lower case."""
        if not isinstance(value, str) or value.strip().lower() not in self.words:
            _refuse(value, where, field, takes=" or ".join(f'"{word}"' for word in self.words))
        return value.strip().lower()


_YES_AND_NO = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Flag:
    """Yes or no."""

    def read(self, value: object, where: str, field: str, /) -> bool:
        """True or False; 1 and 0, yes and no, on and off mean the same."""
        if isinstance(value, bool):
            return value
        meant = _YES_AND_NO.get(str(value).strip().lower())
        if meant is None:
            _refuse(value, where, field, takes='"true" or "false"')
        return meant


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number that is not below a minimum."""

    minimum: int

    def read(self, value: object, where: str, field: str, /) -> int:
        """The number; digits may be grouped by underscores, as in Python."""
        takes = f"a whole number of at least {self.minimum}"
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(_\d+)*", value.strip()):
            value = int(value)
        # bool is an int to Python, but "true runs" is a mistake.
        if isinstance(value, bool) or not isinstance(value, int) or value < self.minimum:
            _refuse(value, where, field, takes=takes)
        return value


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration; a bare number counts seconds. With `never`, the word "never" means no end (None)."""

    minimum_s: float
    never: bool = False

    def read(self, value: object, where: str, field: str, /) -> timedelta | None:
        """The duration."""
        if isinstance(value, str) and value.strip().lower() == "never":
            value = None
        if value is None and self.never:
            return None
        seconds = self._seconds(value)
        if seconds is None or seconds < self.minimum_s or seconds > timedelta.max.total_seconds():
            never = ' or "never"' if self.never else ""
            _refuse(value, where, field, takes=f"a number of seconds of at least {self.minimum_s:g}{never}")
        return timedelta(seconds=seconds)

    def _seconds(self, value: object) -> float | None:
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None


_NAMES = 'names with commas between them, such as "default,slow"'


@dataclass(frozen=True, slots=True)
class Names:
    """Names, as a list or as one text with commas; at least one."""

    def read(self, value: object, where: str, field: str, /) -> tuple[str, ...]:
        """The names in the order given, each once."""
        given = value.split(",") if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            _refuse(value, where, field, takes=_NAMES)
        given = cast("list[object] | tuple[object, ...]", given)
        if not all(isinstance(name, str) for name in given):
            _refuse(value, where, field, takes=_NAMES)
        names = tuple(dict.fromkeys(name.strip() for name in map(str, given) if name.strip()))
        if not names:
            _refuse(value, where, field, takes='at least one name, such as "default"')
        for name in names:
            if (problem := identifier_problem(name)) is not None:
                # No stage can have it, so that nothing would ever be found under it.
                raise InvalidCommand(f'{where}: the name "{name}" {problem}.', field=field, hint=IDENTIFIER_RULE)
        return names


def _refuse(value: object, where: str, field: str, *, takes: str) -> NoReturn:
    given = f'"{value}"' if isinstance(value, str) else repr(value)
    raise InvalidCommand(f"{where} must be {takes}, not {given}.", field=field)
