"""Somebody else's batch API: submitted to once, waited for without a process, asked now and then.

.venv/bin/python examples/batch_job.py api      the API, which needs ten seconds for a batch
.venv/bin/python examples/batch_job.py          the workflow: kill it while it waits and start it again, it goes on
"""

import json
import os
import sys
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

import anyio
from pydantic import BaseModel

from kernel import CheckContext, NotReady, Ready, StageContext, Suspend, WorkflowBuilder, batch_stage
from runtime import App, Supervisor

PORT = int(os.environ.get("BATCH_API_PORT", "8765"))
NEEDS_S = float(os.environ.get("BATCH_API_NEEDS_S", "10"))
batches: dict[str, tuple[float, list[str]]] = {}  # what the API has been given, and when each is done


class Batch(BaseModel):
    url: str


def call(method: str, url: str, body: object = None) -> Any:
    data = json.dumps(body).encode() if body else None
    with urlopen(Request(url, data=data, method=method), timeout=30) as response:  # noqa: S310 - it is the one above
        return json.load(response)


@batch_stage("translate")
def translate(ctx: StageContext[list[str]]) -> Suspend[Batch] | list[str]:
    # Named by run and stage: should this body be killed before its suspension is recorded, it submits the same again.
    batch = Batch(url=f"http://127.0.0.1:{PORT}/batches/{ctx.run_id}-{ctx.stage_id}")
    call("PUT", batch.url, ctx.input)
    return Suspend(state=batch, poll_interval=timedelta(seconds=1), max_wait=timedelta(hours=24))


@translate.check
def translated(batch: Batch, _ctx: CheckContext) -> Ready[list[str]] | NotReady:
    answer = call("GET", batch.url)
    return Ready(answer["results"]) if answer["status"] == "done" else NotReady()


translations = WorkflowBuilder("translations", input=list[str], output=list[str]).pipe(translate).build()


async def main() -> None:
    async with Supervisor(App(workflows=[translations])) as supervisor:
        run = await supervisor.start(translations, ["good morning", "good night"], idempotency_key="greetings")
        print(await run.result())


class Api(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        batches.setdefault(self.path, (time.monotonic() + NEEDS_S, texts))
        print(f"submitted: {self.path}", flush=True)
        self.do_GET()

    def do_GET(self) -> None:
        ready_at, texts = batches[self.path]
        answer = {"status": "working" if time.monotonic() < ready_at else "done", "results": [*map(str.upper, texts)]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


if __name__ == "__main__":
    if "api" in sys.argv:
        ThreadingHTTPServer(("127.0.0.1", PORT), Api).serve_forever()
    else:
        anyio.run(main)
