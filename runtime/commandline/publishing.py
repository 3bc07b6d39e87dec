"""What left the engine, or did not: `dlq` and `sinks`. They need no app: sinks are known by their names."""

from __future__ import annotations

from typing import assert_never

from kernel.commands.replay_dead_letters import ReplayDeadLetters
from kernel.errors import InvalidCommand
from runtime.commandline.failures import DONE, FAILED
from runtime.commandline.invocation import Dlq, Sinks
from runtime.commandline.layout import Column, Span, printable
from runtime.commandline.opening import Context, open_client
from runtime.commandline.runs_view import short_id
from runtime.commandline.times import ago
from runtime.info import time_json

__all__ = ["dead_letters", "known_sinks"]

_LETTER_COLUMNS = (
    Column("ID", right=True),
    Column("SINK"),
    Column("RUN"),
    Column("SEQ", right=True),
    Column("TRIES", right=True, leaves=2),
    Column("FAILED", leaves=1),
    Column("ERROR", flexible=True),
)
_SINK_COLUMNS = (Column("SINK"), Column("OWED RUNS", right=True), Column("EVENTS", flexible=True))


async def dead_letters(command: Dlq, context: Context) -> int:
    """List events that a sink refused too often, or have them tried again."""
    match command.action:
        case "list":
            return await _list_letters(command, context)
        case "replay":
            return await _replay(command, context)
        case _:
            assert_never(command.action)


async def _list_letters(command: Dlq, context: Context) -> int:
    async with open_client(context) as client:
        page = await client.storage.persistence.list_dead_letters(after=command.after, limit=command.limit)
        now = client.storage.clock.now()
    screen = context.screen
    if screen.as_json:
        letters = [
            {
                "id": letter.id,
                "sink": letter.sink,
                "run_id": letter.run_id,
                "seq": letter.seq,
                "tries": letter.tries,
                "error": letter.error,
                "failed_at": time_json(letter.failed_at),
            }
            for letter in page.letters
        ]
        screen.json({"dead_letters": letters, "next": page.next})
        return DONE
    if not page.letters:
        screen.note("No dead letters." if not command.after else "No more dead letters.")
        return DONE
    rows = [
        (
            Span(str(letter.id), "dim"),
            printable(letter.sink),
            short_id(letter.run_id),
            str(letter.seq),
            str(letter.tries),
            Span(ago(letter.failed_at, now), "dim"),
            Span(printable(letter.error), "red"),
        )
        for letter in page.letters
    ]
    screen.table(_LETTER_COLUMNS, rows)
    if page.next is not None:
        screen.note(Span(f"More: --after {page.next}", "dim"))
    return DONE


async def _replay(command: Dlq, context: Context) -> int:
    async with open_client(context) as client:
        result = await client.kernel.dispatch(ReplayDeadLetters(max_events=command.limit))
        more = bool((await client.storage.persistence.list_dead_letters(limit=1)).letters)
    screen = context.screen
    if screen.as_json:
        screen.json({"replayed": result.replayed, "more": more})
    elif result.replayed:
        events = "event is" if result.replayed == 1 else "events are"
        screen.line(f"{result.replayed} {events} tried again by the next process that serves the sink.")
        if more:
            screen.note(Span("There are more dead letters: replay again, or with a larger --limit.", "dim"))
    else:
        screen.note("No dead letters.")
    return DONE


async def known_sinks(command: Sinks, context: Context) -> int:
    """List the sinks and what they are owed, or forget one."""
    if command.action == "forget" and command.name is None:
        raise InvalidCommand("Which sink is to be forgotten?", field="name", hint="leasehold sinks forget NAME")
    async with open_client(context) as client:
        forgotten = command.name is not None and await client.storage.persistence.forget_sink(command.name)
        sinks = await client.storage.persistence.list_sinks()
    screen = context.screen
    if command.name is not None:
        if screen.as_json:
            screen.json({"sink": command.name, "forgotten": forgotten})
        elif forgotten:
            screen.line(f'Nothing is owed to "{printable(command.name)}" any more.')
        else:
            screen.note(f'There is no sink "{printable(command.name)}".')
        return DONE if forgotten else FAILED
    if screen.as_json:
        screen.json({"sinks": [{"name": s.name, "events": s.events, "owed_runs": s.owed} for s in sinks]})
    elif sinks:
        rows = [(printable(s.name), str(s.owed), "all" if s.events is None else ", ".join(s.events)) for s in sinks]
        screen.table(_SINK_COLUMNS, rows)
    else:
        screen.note("No sinks: no process with plugins or sinks has ever been here.")
    return DONE
