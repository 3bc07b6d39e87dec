"""What operators read in the log of a supervisor."""

from __future__ import annotations

import pytest
from structlog.testing import LogCapture

from kernel import NonRetryable, RunFailed, StageContext, Unavailable, WorkflowBuilder, stage
from runtime import App, Settings, Supervisor
from runtime.narration import OutageLog

pytestmark = pytest.mark.anyio


@stage("work")
async def work(ctx: StageContext[str]) -> str:
    if ctx.input == "bad":
        raise NonRetryable("secret of the payload")
    return ctx.input


working = WorkflowBuilder("working", input=str, output=str).pipe(work).build()


async def test_the_end_of_a_run_is_said_with_its_id_and_without_its_payload(log: LogCapture):
    async with Supervisor(App(workflows=[working]), settings=Settings(database_url="memory://")) as supervisor:
        good = await supervisor.start(working, "good")
        await good.result(timeout=10)
        bad = await supervisor.start(working, "bad")
        with pytest.raises(RunFailed):
            await bad.result(timeout=10)

    said = {(line["event"], line.get("run_id")) for line in log.entries}
    assert ("run.completed", good.id) in said
    assert ("run.failed", bad.id) in said
    assert "secret" not in str(log.entries)


def test_an_outage_is_said_once_and_its_end_too(log: LogCapture):
    outage = OutageLog("store.unavailable", "store.recovered")

    for _ in range(5):
        outage.failed(Unavailable("away"))
    outage.worked()
    outage.worked()

    assert [line["event"] for line in log.entries] == ["store.unavailable", "store.recovered"]
