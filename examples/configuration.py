"""Configuration: typed, with defaults that a run may change, checked for all stages before anything begins.

`.venv/bin/python examples/configuration.py`; for a process that is up:
.venv/bin/leasehold start documents --app examples.configuration:app \
  --input '"..."' --config '{"cut": {"window": {"size": 40}}}'
"""

import anyio
from pydantic import BaseModel, Field

from kernel import AIConfig, DebugConfig, InvalidConfig, StageContext, WorkflowBuilder, stage
from runtime import App, Supervisor


class Window(BaseModel):
    size: int = Field(default=20, gt=0)
    # Follows the size, also when only that is changed.
    overlap: int = Field(default_factory=lambda known: known["size"] // 4)


class CutConfig(DebugConfig):
    window: Window = Window()


class AskConfig(AIConfig):
    temperature: float = Field(default=0.0, ge=0, le=1)


@stage("cut")
async def cut(ctx: StageContext[str, CutConfig]) -> list[str]:
    window = ctx.config.window
    step = window.size - window.overlap
    return [ctx.input[at : at + window.size] for at in range(0, len(ctx.input), step)]


@stage("ask")
async def ask(ctx: StageContext[list[str], AskConfig]) -> str:
    return f"{len(ctx.input)} pieces for {ctx.config.model} at {ctx.config.temperature:g}"


documents = WorkflowBuilder("documents", input=str, output=str).pipe(cut).pipe(ask).build()
app = App(workflows=[documents])


async def main(database: str | None = None) -> None:
    async with Supervisor(app, database=database) as supervisor:
        text = "x" * 100
        print(await (await supervisor.start(documents, text)).result())
        run = await supervisor.start(
            documents, text, config={cut: {"window": {"size": 40}}, "ask": {"model": "a-larger-one"}}
        )
        print(await run.result())
        try:
            await supervisor.start(documents, text, config={cut: {"window": {"size": 0}}, "ask": {"temperature": 2}})
        except InvalidConfig as refused:
            for finding in refused.errors:
                print(".".join(map(str, finding["loc"])), "-", finding["msg"])


if __name__ == "__main__":
    anyio.run(main)
