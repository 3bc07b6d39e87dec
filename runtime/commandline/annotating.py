"""Commands about annotations: `annotate` and `annotations`. They need no app."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from kernel.annotations import LIST_MAX, Annotation
from kernel.authoring.annotations import Actor
from runtime.commandline.events_view import short_json
from runtime.commandline.failures import DONE
from runtime.commandline.invocation import Annotate, Annotations
from runtime.commandline.layout import Column, Span, printable
from runtime.commandline.opening import Context, find_run, open_client
from runtime.commandline.runs_view import short_id
from runtime.commandline.times import clock
from runtime.info import time_json

__all__ = ["annotate_run", "show_annotations"]

_COLUMNS = (
    Column("SEQ", right=True),
    Column("TIME", leaves=1),
    Column("KEY"),
    Column("ABOUT"),
    Column("BY"),
    Column("VALUE", flexible=True),
)


async def show_annotations(command: Annotations, context: Context) -> int:
    """What was remarked about the run, oldest first; as JSON one object per line."""
    async with open_client(context) as client:
        handle = await find_run(client, command.run)
        found = await handle.annotations(key_prefix=command.prefix, limit=LIST_MAX)
    screen = context.screen
    if screen.as_json:
        for annotation in found:
            screen.json(annotation_json(annotation))
    elif found:
        screen.table(_COLUMNS, [_row(annotation) for annotation in found])
    else:
        screen.note(Span("Nothing was annotated.", "dim"))
    return DONE


def _row(annotation: Annotation[Any]) -> tuple[str | Span, ...]:
    about = annotation.scope_id or (annotation.stage_id if annotation.scope == "stage" else None)
    return (
        Span(str(annotation.seq), "dim"),
        clock(annotation.at),
        annotation.key,
        printable(annotation.scope if about is None else f"{annotation.scope} {about}"),
        printable("" if annotation.actor is None else str(annotation.actor)),
        short_json(annotation.value, 200),
    )


def annotation_json(annotation: Annotation[Any]) -> dict[str, Any]:
    """An annotation as JSON; `actor` is its text."""
    return {
        "seq": annotation.seq,
        "at": time_json(annotation.at),
        "key": annotation.key,
        "value": annotation.value,
        "scope": annotation.scope,
        "scope_id": annotation.scope_id,
        "stage_id": annotation.stage_id,
        "execution": annotation.execution,
        "attempt": annotation.attempt,
        "actor": None if annotation.actor is None else str(annotation.actor),
        "payload": annotation.payload,
        "idempotency_key": annotation.idempotency_key,
    }


async def annotate_run(command: Annotate, context: Context) -> int:
    """Attach one annotation, or say that it was there already."""
    async with open_client(context) as client:
        handle = await find_run(client, command.run)
        added = await handle.annotate(
            {command.key: _value(command.value)},
            stage=command.stage,
            scope=command.scope,
            scope_id=command.scope_id,
            actor=None if command.actor is None else Actor.parse(command.actor),
            idempotency_key=command.once,
            emit_event=command.emit,
        )
    screen = context.screen
    if screen.as_json:
        screen.json({"run_id": handle.id, "added": added})
    elif added:
        screen.line(f"Run {short_id(handle.id)} is annotated: {command.key}.")
    else:
        screen.note(f"Nothing to do: run {short_id(handle.id)} has this annotation already, or its value is null.")
    return DONE


def _value(text: str) -> Any:
    try:
        # Python's own parser takes NaN; ours, which reads it back, does not.
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
