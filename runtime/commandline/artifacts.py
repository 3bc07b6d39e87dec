"""`artifacts`: what the stages of a run kept beside their results, as a list, or the bytes of one.

The bytes go to standard output as they are, so that they can be piped; a terminal is only shown what is text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio

from kernel.errors import InvalidCommand, StageNotFound
from runtime.artifacts import read_artifact
from runtime.commandline.failures import DONE
from runtime.commandline.invocation import Artifacts
from runtime.commandline.layout import Column, Span, printable
from runtime.commandline.opening import Context, find_run, open_client
from runtime.commandline.screen import Screen
from runtime.info import ArtifactInfo, RunInfo

__all__ = ["show_artifacts"]

_COLUMNS = (Column("STAGE"), Column("ARTIFACT"), Column("BYTES", right=True), Column("SHA-256", flexible=True))


async def show_artifacts(command: Artifacts, context: Context) -> int:
    """List the artifacts of a run, or of one stage; with a name, write that one."""
    async with open_client(context, blobs=True) as client:
        handle = await find_run(client, command.run)
        if command.stage is None or command.name is None:
            _print_list(context.screen, await handle.describe(), command.stage)
            return DONE
        data = await read_artifact(client.storage, handle.id, command.stage, command.name)
    await _deliver(data, command, context.screen)
    return DONE


def _print_list(screen: Screen, info: RunInfo, stage_id: str | None) -> None:
    stages = info.stages or ()
    if stage_id is not None and stage_id not in {stage.id for stage in stages}:
        raise StageNotFound(stage_id, workflow_id=info.workflow_id, known=[stage.id for stage in stages])
    found = list(_found(info, stage_id))
    if screen.as_json:
        listed = [
            {"stage_id": stage, "name": name, "size_bytes": each.size_bytes, "sha256": each.sha256}
            for stage, name, each in found
        ]
        screen.json({"artifacts": listed})
    elif found:
        rows = [
            (printable(stage), printable(name), f"{each.size_bytes:,}", Span(each.sha256, "dim"))
            for stage, name, each in found
        ]
        screen.table(_COLUMNS, rows)
    else:
        screen.note(Span("No artifacts.", "dim"))


def _found(info: RunInfo, stage_id: str | None) -> Iterator[tuple[str, str, ArtifactInfo]]:
    for stage in info.stages or ():
        if stage_id in (None, stage.id):
            for name, each in stage.artifacts.items():
                yield stage.id, name, each


async def _deliver(data: bytes, command: Artifacts, screen: Screen) -> None:
    if command.output is not None:
        await _write_file(data, command.output)
        screen.note(Span(f"{len(data):,} bytes written to {command.output}", "dim"))
        return
    if screen.width is not None and not _is_text(data):
        raise InvalidCommand(
            f'Artifact "{command.name}" is no text, so it is not shown on a terminal.',
            field="output",
            hint="Name a file: --output FILE.",
        )
    screen.raw_bytes(data)


async def _write_file(data: bytes, path: Path) -> None:
    try:
        await anyio.Path(path).write_bytes(data)
    except OSError as error:
        raise InvalidCommand(f"{path} cannot be written: {error.strerror or error}.", field="output") from error


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\n\r\t" for character in text)
