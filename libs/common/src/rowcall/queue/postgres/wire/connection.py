"""Connections from a pool as the queue uses them, and the running of one statement on one.

Called by the store and the work queue. Each statement is a transaction of its own (autocommit), prepared where the
session allows it, with parameters and results in binary format. Nothing else is kept in a session.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow, tuple_row

from rowcall import sessions
from rowcall.liveness import is_alive, shut
from rowcall.queue.postgres import faults
from rowcall.queue.postgres.statements import statement
from rowcall.queue.postgres.wire import prepared
from rowcall.queue.postgres.wire.types import Connection, Pool

T = TypeVar("T")

_TRIES = 5
"""How often a statement is run that keeps colliding with others."""
_BACKOFF = 0.01
"""Seconds; the bound of the first wait after a collision, doubling. Full jitter."""


class connection:  # noqa: N801  used as a function: async with connection(pool) as found: …
    """A live connection in autocommit mode. Raises psycopg_pool.PoolTimeout when there is none in time.

    Without the pool's own context manager, which commits or rolls back: there is no transaction that is not its own
    block's. What is given back in another state than idle is mended or replaced by the pool all the same.

    With a shield, a connection on which a statement behind the last one still runs is given back when that has ended;
    the block does not wait for it.
    """

    __slots__ = ("_found", "_pool", "_shield")

    def __init__(self, pool: Pool, shield: Shield | None = None) -> None:
        self._pool = pool
        self._shield = shield
        self._found: Connection | None = None

    async def __aenter__(self) -> Connection:
        while True:
            found: Connection = await self._pool.getconn()
            usable = False
            try:
                usable = await is_alive(found)
                if not usable:
                    # The pool replaces a closed one; each round takes one dead connection away.
                    await found.close()
                elif not found.autocommit:
                    usable = False
                    await found.set_autocommit(True)
                    usable = True
            finally:
                if not usable:
                    await self._pool.putconn(found)
            if usable:
                self._found = found
                return found

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._found is not None:
            found, self._found = self._found, None
            rest = prepared.rest(found)
            if rest is None or rest.done():
                await self._pool.putconn(found)
            elif self._shield is None:
                await self._give_back(found, rest)
            else:
                self._shield.follow_up(self._give_back(found, rest))

    async def _give_back(self, found: Connection, rest: asyncio.Future[bool]) -> None:
        try:
            await rest
        finally:
            await self._pool.putconn(found)


def can_follow(connection: Connection) -> bool:
    """Whether `execute` can have a statement run behind another one on it."""
    return connection.prepare_threshold is not None


async def execute(
    connection: Connection,
    name: str,
    parameters: Mapping[str, object] | None = None,
    *,
    behind: prepared.Behind | None = None,
) -> list[TupleRow]:
    """Runs one of the queue's statements and returns its rows; see `can_follow` and `prepared.run` for what is behind it.

    Raises psycopg.Error.
    """
    if connection.prepare_threshold is not None:
        return await prepared.run(connection, name, parameters, behind=behind)
    async with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        await cursor.execute(statement(name), parameters)
        return await cursor.fetchall()


async def again_on_collision(once: Callable[[], Awaitable[T]]) -> T:
    """Runs a transaction up to five times while it is rolled back because of others, or refused for its session's state:
    the next session may be to another server. Raises its last error."""
    for tried in range(1, _TRIES):
        try:
            return await once()
        except psycopg.Error as error:
            if not (faults.collided(error) or sessions.may_pass_elsewhere(error)):
                raise
        await asyncio.sleep(random.uniform(0, _BACKOFF * 2**tried))  # noqa: S311 - spreads, hides nothing
    return await once()


class cut_off:  # noqa: N801  used as a function: with cut_off(connection, after): …
    """Gives a connection up when what runs in the block takes too long: its statement ends with a lost connection.

    A COMMIT that waits for a standby must never be cancelled: Postgres then reports success for what is not replicated,
    and statement_timeout does not end the wait either. Shutting the socket down ends our waiting and nothing else.
    """

    __slots__ = ("_after", "_connection", "_timer")

    def __init__(self, connection: Connection, after: timedelta) -> None:
        self._connection = connection
        self._after = after.total_seconds()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._after, shut, self._connection)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()


class replicated:  # noqa: N801  as above
    """Raises NotReplicated at the end of the block if Postgres stopped waiting for a synchronous standby in it.

    It does when it is asked to cancel the statement (an operator's pg_cancel_backend, a statement timeout at the last
    moment): the commit then stands, is reported as done, and a warning is all that says that no standby may have it.
    """

    __slots__ = ("_connection", "_stopped")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stopped = False

    def __enter__(self) -> None:
        self._connection.add_notice_handler(self._noticed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.remove_notice_handler(self._noticed)
        if self._stopped and error is None:
            raise faults.NotReplicated("The wait for a synchronous standby was ended before it had the commit.")

    def _noticed(self, notice: psycopg.errors.Diagnostic) -> None:
        # The text is in the server's language and the code is every warning's; the place in Postgres is this one's.
        self._stopped = self._stopped or notice.source_function == "SyncRepWaitForLSN"


class Shield:
    """Keeps statements running when the call that wants them is cancelled, and knows those that still run.

    psycopg answers cancellation with a cancel request to the server, which can hit a COMMIT. So statements that write
    run in a task of their own: the caller's cancellation ends its waiting, never the statement.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs work to its end, whatever becomes of the caller."""
        return await asyncio.shield(self._start(work))

    def follow_up(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work to its end, for which nobody waits now."""
        self._start(work)  # type: ignore[unused-awaitable]  # `wait` awaits it

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def wait(self) -> None:
        """Waits for everything that still runs; before the pools are closed."""
        while self._running:
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits for it any more
