"""Being told what happens: a plugin for reports, one that is sick, and a webhook.

`.venv/bin/python examples/plugins.py`

Each is given every event that it asked for at least once, in order for each run, whichever process drove the run, and
also when that process has died meanwhile. One that fails is tried again, and then its event is kept as a dead letter
(`leasehold dlq list`, `leasehold dlq replay`); the others notice nothing.
"""

import anyio
from pydantic import BaseModel

from adapters.sinks import webhook
from kernel import Event, PluginRunner, Sink, StageContext, WorkflowBuilder, plugin, stage
from runtime import App, Supervisor


class Order(BaseModel):
    number: int


@stage("pack")
async def pack(ctx: StageContext[Order]) -> str:
    return f"parcel of order {ctx.input.number}"


orders = WorkflowBuilder("orders", input=Order, output=str).pipe(pack).build()


@plugin("report", on=["stage.completed", "run.completed"])
async def report(event: Event) -> None:
    print(f"{event.seq} {event.type}")


@plugin("sick", on=["run.completed"])
async def sick(event: Event) -> None:
    print(f"nobody hears of {event.type}")
    raise ConnectionError("the mail server is away")


def shop(*sinks: Sink) -> App:
    """The app; in production one of its sinks would be a webhook."""
    return App(workflows=[orders], plugins=PluginRunner([report, sick], max_retries=1), sinks=sinks)


def to_accounting(url: str, secret: str) -> Sink:
    """Ends of runs for another service, signed, so that it can tell who sent them (`adapters.sinks.verify`)."""
    return webhook(url, secret=secret, name="accounting", events=["run.completed", "run.failed"])


async def main() -> None:
    """One order. When the supervisor has left, everybody has been told of it, or refused to be."""
    async with Supervisor(shop(), database="memory://") as supervisor:
        run = await supervisor.start(orders, Order(number=7))
        print(await run.result())


if __name__ == "__main__":
    anyio.run(main)
