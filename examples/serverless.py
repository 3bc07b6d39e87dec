"""Durable runs on a platform that only answers requests: nothing lives between them.

uvicorn serverless:app --app-dir examples                  any number of these, anywhere, on one database
curl -X POST localhost:8000/runs -d '{"name": "Ada"}'      start one
curl -X POST localhost:8000/tick                           from a timer, every few seconds: what is due becomes jobs
curl -X POST localhost:8000/work?jobs=10                   as often: execute what is queued
curl -X POST localhost:8000/jobs -d '{"job_id": …}'        or from a queue of the platform's, one job per message: the
                                                           "jobs" that /tick and /jobs answer with are such messages
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial

from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_jsonable_python
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import kernel
from runtime import App, JobMessage, ServerlessHost, info


class Person(BaseModel):
    name: str


@kernel.stage("greet")
async def greet(ctx: kernel.StageContext[Person]) -> str:
    return f"Hello, {ctx.input.name}!"


@kernel.stage("shout")
async def shout(ctx: kernel.StageContext[str]) -> str:
    return ctx.input.upper()


greetings = kernel.WorkflowBuilder("greetings", input=Person, output=str).pipe(greet).pipe(shout).build()


async def create(request: Request) -> Response:
    run = await request.state.host.start(greetings, greetings.decode_input(await request.body()))
    return JSONResponse({"id": run.id}, 202, {"Location": f"/runs/{run.id}"})


async def show(request: Request) -> Response:
    return JSONResponse(info.run_json(await request.state.host.run(request.path_params["id"]).describe()))


async def tick(request: Request) -> Response:
    return JSONResponse(to_jsonable_python(await request.state.host.run_maintenance_tick()))


async def work(request: Request) -> Response:
    return JSONResponse(asdict(await request.state.host.process_available_jobs(int(request.query_params["jobs"]))))


async def jobs(request: Request) -> Response:
    message = TypeAdapter(JobMessage).validate_json(await request.body())
    # A failed attempt is no failed request: it is recorded, and what follows from it is a job of its own.
    return JSONResponse(to_jsonable_python(await request.state.host.handle_job(message)))


def refuse(_request: Request, error: Exception) -> Response:
    status = 503 if isinstance(error, kernel.Unavailable) else 400
    return JSONResponse({"type": type(error).__name__, "message": str(error)}, status)


def service(open_host: Callable[[], ServerlessHost]) -> Starlette:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[dict[str, ServerlessHost]]:
        async with open_host() as host:
            yield {"host": host}

    routes = [Route(f"/{call.__name__}", call, methods=["POST"]) for call in (tick, work, jobs)]
    routes += [Route("/runs", create, methods=["POST"]), Route("/runs/{id}", show)]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={kernel.EngineError: refuse})


app = service(partial(ServerlessHost, App(workflows=[greetings])))
