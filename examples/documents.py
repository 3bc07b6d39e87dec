"""Many files through a durable pipeline, in a program of your own.

`.venv/bin/python examples/documents.py [DIRECTORY]`

The pipeline itself (extract, then keywords, language and statistics at the same time, then a report) is in
runtime/demo/documents.py, because `leasehold demo` needs it wherever Leasehold is installed. This program is what goes
around it: it starts one run for each file and prints each report as it comes.

Each run has its file's path and time of change as idempotency key. So the program can be interrupted and started again
as often as one likes: what has been done is not done twice, and what was under way goes on.
"""

import sys
from pathlib import Path

import anyio

from runtime import RunFailed, RunHandle, Supervisor
from runtime.demo.documents import Document, Report, app, documents
from runtime.demo.files import choose_files


def key_of(document: Document) -> str:
    return f"{document.path}@{Path(document.path).stat().st_mtime_ns}"


async def print_report(run: RunHandle[Report]) -> None:
    try:
        report = await run.result()
    except RunFailed as failed:
        print(f"{run.id[-8:]}  failed: {failed}")
    else:
        print(f"{run.id[-8:]}  {Path(report.path).name}: {report.summary}")


async def main(directory: Path | None = None, limit: int = 200, database: str | None = None) -> None:
    files = [Document(path=str(path)) for path in choose_files(directory, limit)]
    async with Supervisor(app, database=database) as supervisor, anyio.create_task_group() as printing:
        for run in await supervisor.start_many(documents, files, idempotency_key=key_of):
            printing.start_soon(print_report, run)
    print(f"{len(files)} files.")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]) if len(sys.argv) > 1 else None)
