"""Creating runs inside somebody else's transaction, on their own connection of the driver.

The statement is the one that the committer sends. What is different here is whose connection it is: its settings and
codecs are theirs, so JSON travels as text; an error must not cost them their transaction, so a savepoint stands before
each statement; and nobody is told of a run in an open transaction, because nobody knows when it will be committed.

Must not know what is created, nor hold on to the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from adapters.postgres.batches import item_of, parameters
from adapters.postgres.connections import Line
from adapters.postgres.failures import DRIVER_ERRORS, Failure, describe, failure_of, mapped, unavailable
from adapters.postgres.refusals import Refusal, judge, questions
from adapters.postgres.statements import Schema, statement
from adapters.postgres.workflows import WorkflowKeys
from kernel.errors import IdempotencyInProgress, InvalidCommand, PayloadRefused, Unavailable
from kernel.ports.persistence import Append

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    Theirs = Connection[Record] | PoolConnectionProxy[Record]

__all__ = ["Borrowed", "JoinedAppends", "Joining"]

TRIES_MAX = 3
SAVEPOINT = "leasehold_start"
FAILED_TRANSACTION = "25P02"


class Joining:
    """Makes sure of a connection before anything is sent on it."""

    def __init__(self, line: Line, schema: Schema, workflows: WorkflowKeys, hint: Callable[[bool], None]) -> None:
        self._line = line
        self._schema = schema
        self._workflows = workflows
        self._hint = hint
        self._sql = statement("same_database", schema)
        self._ours: tuple[object, ...] | None = None

    async def join(self, connection: object) -> tuple[JoinedAppends, Borrowed]:
        """What creates runs on this connection, and the connection for anything else.

        Raises: InvalidCommand, naming what is wrong with it; Unavailable.
        """
        borrowed = Borrowed(_checked(connection), self._line.target.deadlines.statement_s)
        if self._ours is None:
            with mapped("say which one it is"):
                self._ours = tuple((await self._line.fetch("say which one it is", self._sql))[0])
        (theirs,) = await borrowed.fetch("say which one it is", self._sql)
        if tuple(theirs) != self._ours:
            raise InvalidCommand(
                f'The connection leads to another database, or to one without this schema ("{self._schema}").',
                field="connection",
                hint="Use one to the database in which the runs are.",
            )
        return JoinedAppends(borrowed, self._schema, self._workflows, self._hint), borrowed


def _checked(connection: object) -> Theirs:
    if isinstance(connection, asyncpg.Pool):
        raise InvalidCommand(
            "connection is a pool, which has many.",
            field="connection",
            hint="Acquire one: async with pool.acquire() as connection.",
        )
    if not isinstance(connection, asyncpg.Connection | PoolConnectionProxy):
        raise InvalidCommand(
            f"connection must be one of asyncpg's, not {type(connection).__module__}.{type(connection).__qualname__}.",
            field="connection",
            hint="What wraps one of asyncpg's can give it away; SQLAlchemy calls it driver_connection. With any other "
            "driver call the SQL function leasehold.create_run.",
        )
    return cast("Theirs", connection)


class Borrowed:
    """Somebody's connection, for single statements; errors come out as the engine's."""

    def __init__(self, connection: Theirs, deadline_s: float) -> None:
        self._connection = connection
        self._deadline_s = deadline_s

    def in_transaction(self) -> bool:
        """Whether what is done appears only when somebody commits."""
        return self._connection.is_in_transaction()

    async def fetch(
        self,
        doing: str,
        sql: str,
        *args: object,
        repeat: bool = True,
        key: str | None = None,
    ) -> Sequence[Any]:
        """Run one statement; a failure leaves the transaction as it was. `key` is that of a creation, for errors."""
        try:
            async with self._savepoint():
                return await self._connection.fetch(sql, *args, timeout=self._deadline_s)
        except DRIVER_ERRORS as error:
            raise _explained(error, doing, key) from error

    @asynccontextmanager
    async def _savepoint(self) -> AsyncGenerator[None]:
        # Not the driver's own, which refuses a transaction that was begun with SQL.
        if not self.in_transaction():
            yield
            return
        await self._connection.execute(f"SAVEPOINT {SAVEPOINT}", timeout=self._deadline_s)
        try:
            yield
        except (TimeoutError, asyncpg.PostgresError):
            await self._connection.execute(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}", timeout=self._deadline_s)
            raise
        await self._connection.execute(f"RELEASE SAVEPOINT {SAVEPOINT}", timeout=self._deadline_s)


def _explained(error: Exception, doing: str, key: str | None) -> Exception:
    if isinstance(error, asyncpg.InterfaceError):
        # Closed, released to its pool, or in use: the driver says which.
        return InvalidCommand(
            f"The connection cannot be used: {describe(error)}.",
            field="connection",
            hint="Pass one that is open, and await one thing at a time on it.",
        )
    state = getattr(error, "sqlstate", None)
    if state == FAILED_TRANSACTION:
        return InvalidCommand(
            "The transaction of the connection has failed already; nothing more can be done in it.",
            field="connection",
            hint="Roll it back, and begin again.",
        )
    match failure_of(error):
        case Failure.RETRY if key is not None:
            # Somebody else's creation, which this transaction must not see, has the key.
            return IdempotencyInProgress(key, command_type="run.create")
        case Failure.DATA:
            return PayloadRefused("A value of the run", describe(error), field="input")
        case Failure.BUG:
            return InvalidCommand(
                f"The database refused to {doing} on this connection: {describe(error)}.",
                field="connection",
                hint="Its role needs the rights of one that runs workflows.",
            )
        case _:
            return unavailable(error, doing)


class JoinedAppends:
    """`kernel.ports.persistence.Appends` for creations."""

    def __init__(
        self, borrowed: Borrowed, schema: Schema, workflows: WorkflowKeys, hint: Callable[[bool], None]
    ) -> None:
        self._borrowed = borrowed
        self._workflows = workflows
        self._hint = hint
        # As text, because a connection may have a codec of its own for JSON.
        self._sql = statement("append_create", schema).replace("::json[]", "::text[]::json[]")
        self._sql_refused = statement("append_refused", schema)
        self._sql_expired = statement("delete_expired_keys", schema)

    async def append(self, append: Append, /) -> bool:
        """As the port says; durable when the transaction is. Raises: as the port says, and IdempotencyInProgress."""
        assert append.new is not None, "only creations are made elsewhere"
        assert append.lease is None, "a transaction that may be rolled back owns no run"
        item = item_of(append, asyncio.get_running_loop().create_future(), 0.0)
        item.workflow_key = await self._workflows.key_of(append.new.workflow_id, append.new.workflow_version)
        key = None if append.key is None else append.key.key
        for _ in range(TRIES_MAX):
            (row,) = await self._borrowed.fetch("create a run", self._sql, *parameters(item.kind, [item]), key=key)
            if row["done"]:
                if not self._borrowed.in_transaction():
                    self._hint(True)
                return False
            (found,) = await self._borrowed.fetch("look at a run", self._sql_refused, *questions([item]))
            verdict = judge(item, Refusal(*list(found)[1:]))
            if verdict.error is not None:
                raise verdict.error
            if verdict.done:
                return False
            if verdict.forget_key and append.key is not None:
                name = (append.key.command_type, append.key.scope, append.key.key)
                await self._borrowed.fetch("forget a key", self._sql_expired, *([part] for part in name), key=key)
        raise Unavailable(f'Run "{append.run_id}" was not created: others were faster {TRIES_MAX} times.')
