"""Workflows in a trio program, with bodies that use trio themselves.

    .venv/bin/python examples/trio_app.py [DIRECTORY ...]

The supervisor is one more async context manager among the program's own nurseries and cancel scopes. On Postgres the
driver, which knows asyncio only, is bridged below the surface.
"""

import sys
from pathlib import Path

import trio
from pydantic import BaseModel

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App, Supervisor


class Folder(BaseModel):
    path: str


class Sizes(BaseModel):
    lines: dict[str, int]


@stage("count")
async def count(ctx: StageContext[Folder]) -> Sizes:
    """Every file in a task of its own; when the run is cancelled, so is the nursery with all of them."""
    lines: dict[str, int] = {}

    async def count_lines(file: trio.Path) -> None:
        lines[file.name] = (await file.read_text(encoding="utf-8")).count("\n")

    async with trio.open_nursery() as nursery:
        for file in await trio.Path(ctx.input.path).glob("*.py"):
            nursery.start_soon(count_lines, file)
    return Sizes(lines=lines)


@stage("longest")
async def longest(ctx: StageContext[Sizes]) -> str:
    name = max(ctx.input.lines, key=lambda name: ctx.input.lines[name], default="")
    return f"{name} is the longest of {len(ctx.input.lines)} files" if name else "there are no files"


folders = WorkflowBuilder("folders", input=Folder, output=str).pipe(count).pipe(longest).build()


async def main(*directories: Path, database: str | None = None) -> None:
    async with Supervisor(App(workflows=[folders]), database=database) as supervisor, trio.open_nursery() as nursery:

        async def report(directory: Path) -> None:
            run = await supervisor.start(folders, Folder(path=str(directory)))
            with trio.move_on_after(60) as patience:
                print(f"{directory.name}: {await run.result()}")
            if patience.cancelled_caught:
                print(f"{directory.name}: not yet; run {run.id} goes on")

        for directory in directories:
            nursery.start_soon(report, directory)


if __name__ == "__main__":
    trio.run(main, *map(Path, sys.argv[1:] or [str(Path(__file__).parent)]))
