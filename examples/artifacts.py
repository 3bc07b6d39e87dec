"""Files beside a result: a stage keeps a picture and a table, and whoever has the run reads them.

`.venv/bin/python examples/artifacts.py`

The output stays small and typed; the bytes lie in the database, or where LEASEHOLD_BLOB_URL says. From a terminal:
`leasehold artifacts RUN draw chart.svg --output chart.svg`.
"""

import anyio
from pydantic import BaseModel

from kernel import StageContext, StageResult, WorkflowBuilder, stage
from runtime import App, Supervisor


class Numbers(BaseModel):
    values: list[int]


class Drawn(BaseModel):
    bars: int


class Bar(BaseModel):
    height: int
    share: float


@stage("draw")
async def draw(ctx: StageContext[Numbers]) -> StageResult[Drawn]:
    values = ctx.input.values
    # What is in ctx.storage outlives attempts and reruns: here, that somebody has looked at these numbers before.
    await ctx.storage.put("seen", values)
    bars = "".join(f'<rect x="{n * 12}" width="10" height="{value}"/>' for n, value in enumerate(values))
    table = [Bar(height=value, share=value / sum(values)) for value in values]
    return StageResult(
        Drawn(bars=len(values)),
        metrics={"bars": len(values)},
        artifacts={"chart.svg": f'<svg xmlns="http://www.w3.org/2000/svg">{bars}</svg>'.encode(), "table": table},
    )


drawing = WorkflowBuilder("drawing", input=Numbers, output=Drawn).pipe(draw).build()
app = App(workflows=[drawing])


async def main(database: str | None = None) -> None:
    async with Supervisor(app, database=database) as supervisor:
        run = await supervisor.start(drawing, Numbers(values=[3, 4, 5]))
        print(await run.result())
        print((await run.artifact(draw, "chart.svg")).decode())
        for bar in await run.artifact(draw, "table", list[Bar]):
            print(f"{bar.height} is {bar.share:.0%}")


if __name__ == "__main__":
    anyio.run(main)
