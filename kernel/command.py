"""What every command is: a frozen value that names the type of its result."""

from __future__ import annotations

from typing import ClassVar, Generic

from pydantic import ConfigDict
from typing_extensions import TypeVar

__all__ = ["Command"]

R_co = TypeVar("R_co", covariant=True)


class Command(Generic[R_co]):
    """A request to the kernel; `type` is its name in traces and in JSON, the type parameter what dispatch returns."""

    __slots__ = ()

    type: ClassVar[str]

    # Fields may be of our own classes, such as a stage; read from JSON they have another form.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    def _result(self) -> R_co:
        """Ties the result's type to the command's for type checkers; never called."""
        raise AssertionError
