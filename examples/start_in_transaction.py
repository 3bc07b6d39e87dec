"""An order and its run, in one transaction: both exist, or neither.

`.venv/bin/python examples/start_in_transaction.py URL`

The database needs the schema: `leasehold migrate`. Postgres' own driver for asyncio is asyncpg, so this is asyncio.
"""

import asyncio
import sys

import asyncpg
from pydantic import BaseModel

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App, RunHandle, Supervisor


class Order(BaseModel):
    id: int
    item: str


@stage("pack")
async def pack(ctx: StageContext[Order]) -> str:
    return f"order {ctx.input.id}: one {ctx.input.item}, packed"


fulfil = WorkflowBuilder("fulfil", input=Order, output=str).pipe(pack).build()
app = App(workflows=[fulfil])

ORDERS = "CREATE TABLE IF NOT EXISTS orders (id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, item text)"


async def place_order(supervisor: Supervisor, connection: asyncpg.Connection, item: str) -> RunHandle[str]:
    """Whatever fails in here, and wherever this process dies, no order is without its run, and no run without order."""
    async with connection.transaction():
        number = await connection.fetchval("INSERT INTO orders (item) VALUES ($1) RETURNING id", item)
        run = await supervisor.start(
            fulfil, Order(id=number, item=item), idempotency_key=f"order {number}", connection=connection
        )
        if not item:
            raise ValueError("an order needs an item")
    return run


async def main(url: str) -> None:
    """Place one order that succeeds and one that does not."""
    connection = await asyncpg.connect(url)
    await connection.execute(ORDERS)
    async with Supervisor(app, database=url) as supervisor:
        run = await place_order(supervisor, connection, "lamp")
        print(await run.result())
        try:
            await place_order(supervisor, connection, "")
        except ValueError as error:
            print(f"refused: {error}")
        orders = await connection.fetchval("SELECT count(*) FROM orders")
        print(f"{orders} order")
        print(f"{len((await supervisor.list_runs(workflow=fulfil)).items)} run")
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
