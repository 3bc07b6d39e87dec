"""A workflow of one stage: `.venv/bin/python examples/hello.py`, or `leasehold up --app examples.hello:app`."""

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
app = App(workflows=[hello])

if __name__ == "__main__":
    print(anyio.run(run_and_wait, app, hello, Person(name="Ada")))
