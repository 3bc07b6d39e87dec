"""A workflow of one stage, run to its end on a private Postgres: `python examples/hello.py`."""

import anyio
from pydantic import BaseModel

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App, run_and_wait


class Person(BaseModel):
    name: str


@stage("greet")
async def greet(ctx: StageContext[Person]) -> str:
    return f"Hello, {ctx.input.name}!"


hello = WorkflowBuilder("hello", input=Person, output=str).pipe(greet).build()

if __name__ == "__main__":
    print(anyio.run(run_and_wait, App(workflows=[hello]), hello, Person(name="Ada")))
