"""Durable runs behind a web service: accepted with 202, then looked at, or followed while they happen.

uvicorn embed_in_starlette:app --app-dir examples --workers 2         every worker serves and executes
uvicorn embed_in_starlette:web_only --factory --app-dir examples      serves; other processes execute
curl -i localhost:8000/runs -H 'Idempotency-Key: 1' -d '{"name": "Ada"}'
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import kernel.events
from runtime import App, Client, Supervisor, info


class Person(BaseModel):
    name: str


@kernel.stage("greet")
async def greet(ctx: kernel.StageContext[Person]) -> str:
    return f"Hello, {ctx.input.name}!"


greetings = kernel.WorkflowBuilder("greetings", input=Person, output=str).pipe(greet).build()

# The status of an error is that of its closest class.
status_of: dict[type[Exception], int] = {kernel.InvalidInput: 422, kernel.IdempotencyKeyReused: 409}
status_of |= {kernel.RunNotFound: 404, kernel.WorkflowNotFound: 404, kernel.InvalidCommand: 400}
status_of |= {kernel.Conflict: 409, kernel.Unavailable: 503, kernel.EngineError: 500}


def refuse(_request: Request, error: Exception) -> Response:
    status = next(status_of[kind] for kind in type(error).__mro__ if kind in status_of)
    content = {"type": type(error).__name__, "message": str(error), "errors": getattr(error, "errors", [])}
    return JSONResponse(content, status, {"Retry-After": "1"} if status == 503 else None)


async def create(request: Request) -> Response:
    person, key = greetings.decode_input(await request.body()), request.headers.get("Idempotency-Key")
    run = await request.state.client.start(greetings, person, idempotency_key=key)
    return JSONResponse({"id": run.id}, 202, {"Location": f"/runs/{run.id}"})


async def show(request: Request) -> Response:
    return JSONResponse(info.run_json(await request.state.client.run(request.path_params["id"]).describe()))


async def follow(request: Request) -> Response:
    run = request.state.client.run(request.path_params["id"])
    await run.describe()  # an unknown run is a 404 now; once the stream has begun it could not be
    seen = request.headers.get("Last-Event-ID", "")  # what a browser sends when it comes back
    events = server_sent(run.events(after=int(seen) if seen.isdecimal() else 0))
    return StreamingResponse(events, media_type="text/event-stream")


async def server_sent(events: AsyncIterator[kernel.Event]) -> AsyncGenerator[bytes]:
    async for event in events:
        yield b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.type.encode(), kernel.events.event_json(event))


def service(open_client: Callable[[], Client]) -> Starlette:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[dict[str, Client]]:
        async with open_client() as client:
            yield {"client": client}

    routes = [Route("/runs", create, methods=["POST"]), Route("/runs/{id}", show), Route("/runs/{id}/events", follow)]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={kernel.EngineError: refuse})


app = service(partial(Supervisor, App(workflows=[greetings])))
web_only = partial(service, partial(Client, App(workflows=[greetings])))
