"""Running the queue's statements for one shard and one workload, with errors as callers get them.

Called by the store and the work queue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from psycopg.rows import TupleRow

from rowcall.queue.connection import (
    Connection,
    Pool,
    Shield,
    again_on_collision,
    connection,
    cut_off,
    execute,
    replicated,
)
from rowcall.queue.faults import fault


class Session:
    """Statements of one shard through one pool; with a shield, statements that write."""

    def __init__(
        self, pool: Pool, *, shard: str, shield: Shield | None = None, give_up_after: timedelta | None = None
    ) -> None:
        """
        Args:
            pool: Where connections come from.
            shard: The shard's name, for errors.
            shield: Given where statements write: they then run to their end whatever becomes of the caller.
            give_up_after: How long a statement may take; see `connection.cut_off`.
        """
        self._pool = pool
        self.shard = shard
        self._shield = shield
        self._give_up_after = give_up_after

    async def rows(
        self, name: str, parameters: Mapping[str, object] | None = None, *, operation: str | None = None
    ) -> list[TupleRow]:
        """Runs a statement, again while it collides with others, and returns its rows.

        Raises RowcallError.
        """
        try:
            if self._shield is None:
                return await self.run(name, parameters)
            return await self._shield.run(self.run(name, parameters))
        except Exception as error:
            raise fault(error, shard=self.shard, writing=self._shield is not None, operation=operation) from error

    async def value(
        self, name: str, parameters: Mapping[str, object] | None = None, *, operation: str | None = None
    ) -> Any:
        """The first column of the one row of a statement. Raises RowcallError."""
        return (await self.rows(name, parameters, operation=operation))[0][0]

    async def run(self, name: str, parameters: Mapping[str, object] | None = None) -> list[TupleRow]:
        """Runs a statement, again while it collides with others, unshielded. Raises psycopg.Error."""

        async def once() -> list[TupleRow]:
            async with self.connection() as found:
                return await execute(found, name, parameters)

        return await again_on_collision(once)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, given up when the block takes too long.

        Raises psycopg_pool.PoolTimeout, and NotReplicated behind a block that committed what no standby may have.
        """
        async with connection(self._pool) as found:
            if self._give_up_after is None:
                yield found
            else:
                with cut_off(found, self._give_up_after), replicated(found):
                    yield found
