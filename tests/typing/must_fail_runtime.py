"""What a type checker must refuse against the runtime; every line that ends in the mark, and no other."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from kernel import CancelRun, CreateRunResult, Decision
from runtime import App, Client, RunHandle, Supervisor
from tests.typing.usage_runtime import Doc, Report, documents, nightly


class Text(BaseModel):
    text: str


async def start_with_the_wrong_input(supervisor: Supervisor) -> None:
    await supervisor.start(documents, Text(text=""))  # E
    await supervisor.start(nightly, Doc(path=""))  # E
    await supervisor.start_many(documents, [Text(text="")])  # E


def keep_blobs_in_something_else() -> App:
    return App(workflows=[documents], blob_store=dict)  # E


def redact_what_is_never_recorded(name: Literal["stage.input"], value: object) -> object:
    return value if name else None


def redact() -> App:
    return App(workflows=[documents], redact=redact_what_is_never_recorded)  # E


async def expect_another_output(client: Client, run: RunHandle[Report]) -> None:
    text: Text = await run.result()  # E
    handle: RunHandle[Text] = client.run("id", documents)  # E
    created: CreateRunResult = await client.kernel.dispatch(CancelRun(run_id="id"))  # E
    await run.annotate(Decision.confidence, "sure")  # E
    await run.annotations(about="it")  # E
    print(text, handle, created)
