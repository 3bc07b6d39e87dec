"""A person decides: the run waits for as long as it takes, and goes on when the decision is recorded.

uvicorn approval:app --app-dir examples
curl localhost:8000/expenses -d '{"what": "a train ticket", "euros": 90}'
curl localhost:8000/expenses/ID/decision -d '{"approved": true, "by": "Ada"}'
leasehold show ID
"""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kernel import CheckContext, NotReady, Ready, RunNotFound, StageContext, Suspend, WorkflowBuilder, batch_stage
from runtime import App, Client, Supervisor

DECISIONS = anyio.Path(os.environ.get("DECISIONS_DIR", "."))  # where your own database would be


class Expense(BaseModel):
    what: str
    euros: float


class Decision(BaseModel):
    approved: bool
    by: str


@batch_stage("approve")
async def approve(ctx: StageContext[Expense]) -> Suspend[Expense] | Decision:
    # The interval is for the day on which somebody records a decision and dies before saying so.
    return Suspend(state=ctx.input, poll_interval=timedelta(hours=1), max_wait=timedelta(days=30))


@approve.check
async def approved(_expense: Expense, ctx: CheckContext) -> Ready[Decision] | NotReady:
    file = DECISIONS / ctx.run_id
    return Ready(Decision.model_validate_json(await file.read_bytes())) if await file.exists() else NotReady()


expenses = WorkflowBuilder("expenses", input=Expense, output=Decision).pipe(approve).build()


async def submit(request: Request) -> Response:
    run = await request.state.client.start(expenses, expenses.decode_input(await request.body()))
    return JSONResponse({"id": run.id}, 202)


async def decide(request: Request) -> Response:
    decision = Decision.model_validate_json(await request.body())
    run = request.state.client.run(request.path_params["id"])
    await run.describe()  # an unknown run is a 404
    await (DECISIONS / run.id).write_text(decision.model_dump_json())
    return JSONResponse({"waiting": list(await run.poll())})


def unknown(_request: Request, error: Exception) -> Response:
    return JSONResponse({"message": str(error)}, 404)


def service(open_client: Callable[[], Client]) -> Starlette:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[dict[str, Client]]:
        async with open_client() as client:
            yield {"client": client}

    routes = [Route("/expenses", submit, methods=["POST"]), Route("/expenses/{id}/decision", decide, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={RunNotFound: unknown})


app = service(lambda: Supervisor(App(workflows=[expenses])))
