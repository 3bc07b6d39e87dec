"""`migrate` and `config`: the schema of the database, and what this process would run with."""

from __future__ import annotations

from dataclasses import replace

from kernel.errors import EngineError
from runtime.bootstrap import choose_database, migrate_database, schema_sql
from runtime.commandline.failures import DONE
from runtime.commandline.invocation import Config, Migrate
from runtime.commandline.layout import Column, Span
from runtime.commandline.opening import Context
from runtime.config import SETTINGS, Setting, Settings, setting_json, shown

__all__ = ["migrate", "show_config"]


async def migrate(command: Migrate, context: Context) -> int:
    """Bring the schema up to date, or print the statements that would."""
    screen = context.screen
    if command.sql:
        screen.raw(schema_sql())
        return DONE
    done = await migrate_database(context.settings)
    if screen.as_json:
        screen.json({"database": done.database, "applied": list(done.applied)})
    elif done.applied:
        screen.line(f"The schema of {done.database} is up to date now: {', '.join(done.applied)} applied.")
    else:
        screen.line(f"The schema of {done.database} was up to date.")
    return DONE


def show_config(_command: Config, context: Context) -> int:
    """Every setting with its value and where that comes from; passwords are hidden."""
    settings, screen = context.settings, context.screen
    if screen.as_json:
        screen.json({row.key: _json_row(row, settings) for row in SETTINGS})
        return DONE
    columns = (
        Column("SETTING"),
        Column("VALUE"),
        Column("FROM"),
        Column("VARIABLE", leaves=2),
        Column("MEANING", flexible=True, leaves=1),
    )
    rows = [
        (
            row.name,
            Span(shown(row, getattr(settings, row.name)), "bold" if settings.source_of(row.name) != "default" else ""),
            Span(settings.source_of(row.name), "" if settings.source_of(row.name) != "default" else "dim"),
            Span(row.variable, "dim"),
            Span(row.note, "dim"),
        )
        for row in SETTINGS
    ]
    screen.table(columns, rows)
    screen.line()
    screen.line(_database_line(settings))
    return DONE


def _json_row(row: Setting, settings: Settings) -> dict[str, object]:
    return {
        "value": setting_json(row, getattr(settings, row.name)),
        "source": settings.source_of(row.name),
        "variable": row.variable,
    }


def _database_line(settings: Settings) -> str:
    """Which database a command would use."""
    try:
        url = choose_database(settings)
    except EngineError as error:
        return str(error)
    row = next(row for row in SETTINGS if row.name == "database_url")
    if settings.database_url is None:
        return f"No database is configured: an embedded one in {settings.data_dir} would be used."
    return f"Database: {shown(row, replace(settings, database_url=url).database_url)}"
