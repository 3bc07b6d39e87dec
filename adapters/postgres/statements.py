"""SQL as data: every statement is a file of its own, read once, for one schema.

The files are valid SQL for the default schema, `leasehold`, so an editor or psql understands them as they are. For
another schema the word is replaced, in one place and by a validated, quoted name. A `search_path` on our connections
would be shorter, but a transaction pooler hands our statements to connections whose settings are not ours.

Knows files and names; knows no connection.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NewType

from kernel.errors import InvalidCommand

__all__ = ["DEFAULT_SCHEMA", "Schema", "checked_schema", "migration_files", "qualify", "statement"]

DEFAULT_SCHEMA = "leasehold"

Schema = NewType("Schema", str)
"""A schema's name that has been checked, unquoted."""

_HERE = Path(__file__).parent
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_COMMENT = re.compile(r"^\s*--.*\n|[ \t]+--.*$", re.MULTILINE)
# What stands in a statement only with or only without jobs; its own braces would end it, so it has none.
_WITH_JOBS = re.compile(r"\{jobs:([^{}]*)\}")
_WITHOUT_JOBS = re.compile(r"\{plain:([^{}]*)\}")
_JOBS_OF = re.compile(r"^\{jobs_of (\w+)\}\n", re.MULTILINE)
_SHARED = ("page_of_heads", "head")
"""Parts that several statements have in common; the first names the second."""
_PLACEHOLDER = re.compile(rf"\b{DEFAULT_SCHEMA}\b")


def checked_schema(name: str) -> Schema:
    """The name, when it can stand in SQL.

    Raises: InvalidCommand.
    """
    if _NAME.fullmatch(name) is None or name.startswith("pg_"):
        raise InvalidCommand(
            f'"{name}" cannot be the name of our schema.',
            field="schema",
            hint="Use lower-case letters, digits and underscores, not beginning with a digit or with pg_.",
        )
    return Schema(name)


def qualify(sql: str, schema: Schema) -> str:
    """The text with our schema's name in place of the default one, and without comments."""
    return _PLACEHOLDER.sub(f'"{schema}"', _COMMENT.sub("", sql))


@cache
def statement(name: str, schema: Schema, *, jobs: bool = False) -> str:
    """The statement in `sql/<name>.sql`, for this schema.

    The statements that append have two forms: most appends change no job, and theirs know nothing of that table.
    """
    sql = _read(f"sql/{name}.sql")
    if "{jobs_of" in sql:
        sql = (_WITHOUT_JOBS if jobs else _WITH_JOBS).sub("", sql)
        sql = (_WITH_JOBS if jobs else _WITHOUT_JOBS).sub(r"\1", sql)
        sql = _JOBS_OF.sub(_changing_jobs if jobs else "", sql)
    for shared in _SHARED:
        if f"{{{shared}}}" in sql:
            sql = sql.replace(f"{{{shared}}}", _read(f"sql/{shared}.fragment.sql").rstrip())
    return qualify(sql, schema).strip()


def _changing_jobs(place: re.Match[str]) -> str:
    return _read("sql/jobs.fragment.sql").replace("{source}", place[1])


@cache
def migration_files() -> tuple[tuple[int, str, str], ...]:
    """Every migration as (number, name, text), in order."""
    files = sorted((_HERE / "migrations").glob("[0-9]*.sql"))
    return tuple((int(file.name[:4]), file.stem, file.read_text(encoding="utf-8")) for file in files)


def _read(path: str) -> str:
    return (_HERE / path).read_text(encoding="utf-8")
