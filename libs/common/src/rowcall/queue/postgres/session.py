"""Running the queue's statements for one shard and one workload, with errors as callers get them.

Called by the store and the work queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Final

from psycopg.rows import TupleRow

from rowcall.queue.hints import Hint
from rowcall.queue.postgres.faults import fault
from rowcall.queue.postgres.hints import behind
from rowcall.queue.postgres.wire.connection import (
    Shield,
    again_on_collision,
    can_follow,
    connection,
    cut_off,
    execute,
    replicated,
)
from rowcall.queue.postgres.wire.prepared import rest
from rowcall.queue.postgres.wire.types import Connection, Pool

_HINTS_AGAIN: Final = 30.0
"""Seconds without hints behind statements after one that could not be sent: a notifier sends them."""


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
        self._hint_under_way = False
        self._no_hints_until = 0.0

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

    async def run(
        self, name: str, parameters: Mapping[str, object] | None = None, *, hint: Hint | None = None
    ) -> list[TupleRow]:
        """Runs a statement, again while it collides with others, unshielded. Raises psycopg.Error."""

        async def once() -> list[TupleRow]:
            async with self.connection() as found:
                return await self.execute(found, name, parameters, hint=hint)

        return await again_on_collision(once)

    async def execute(
        self, found: Connection, name: str, parameters: Mapping[str, object] | None = None, *, hint: Hint | None = None
    ) -> list[TupleRow]:
        """Runs a statement that is a transaction of its own on a connection of this session's, and sends a hint behind it.

        One hint at a time: what keeps one waiting (Postgres takes a lock of the whole database for it) must not keep more
        than one connection. The hint says afterwards whether it was sent. Raises psycopg.Error.
        """
        if hint is None:
            return await execute(found, name, parameters)
        hint.sent = can_follow(found) and not self._hint_under_way and time.monotonic() >= self._no_hints_until
        if not hint.sent:
            return await execute(found, name, parameters)
        self._hint_under_way = True
        try:
            return await execute(found, name, parameters, behind=behind(hint))
        finally:
            ended = rest(found)
            if ended is None:
                # It was never sent.
                self._hint_under_way = False
            else:
                ended.add_done_callback(self._hint_ended)

    def _hint_ended(self, ended: asyncio.Future[bool]) -> None:
        self._hint_under_way = False
        if ended.cancelled() or not ended.result():
            self._no_hints_until = time.monotonic() + _HINTS_AGAIN

    def connection(self) -> _Connection:
        """For an `async with` block: a connection of the pool, given up when the block takes too long.

        Raises psycopg_pool.PoolTimeout, and NotReplicated behind a block that committed what no standby may have.
        """
        return _Connection(connection(self._pool, self._shield), self._give_up_after)


class _Connection:
    """See `Session.connection`. A generator for each statement would cost more than what it does."""

    __slots__ = ("_borrowed", "_bounds", "_give_up_after")

    def __init__(self, borrowed: connection, give_up_after: timedelta | None) -> None:
        self._borrowed = borrowed
        self._give_up_after = give_up_after
        self._bounds: tuple[cut_off, replicated] | None = None

    async def __aenter__(self) -> Connection:
        found = await self._borrowed.__aenter__()
        if self._give_up_after is not None:
            self._bounds = bounds = (cut_off(found, self._give_up_after), replicated(found))
            for each in bounds:
                each.__enter__()
        return found

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._bounds is not None:
                in_time, with_standby = self._bounds
                in_time.__exit__(kind, error, traceback)
                with_standby.__exit__(kind, error, traceback)
        finally:
            await self._borrowed.__aexit__(kind, error, traceback)
