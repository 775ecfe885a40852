"""The job's own transaction on Postgres: a connection of a bounded pool, lent to the handler (`wire.lent`). Made by `work`.

Whether a COMMIT was carried out whose answer is lost need not be known here: the settlement and the handler's writes are
one transaction, which holds the row's lock as long as it may still be committed. Whoever settles the attempt again under
the same lease number, as failed, waits for that lock; then the lease number matches no longer, or nothing was kept.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow

from rowcall.errors import RowcallError
from rowcall.queue.faults import TransactionFault, too_long
from rowcall.queue.model import Settled, Settlement
from rowcall.queue.postgres.faults import collided, fault, lost, of_a_row
from rowcall.queue.postgres.settling import NOT_OURS, Settler
from rowcall.queue.postgres.wire.connection import Shield, cut_off, execute, replicated
from rowcall.queue.postgres.wire.lent import LentAsyncConnection, LentConnection
from rowcall.queue.postgres.wire.types import Connection, Pool
from rowcall.queue.transactions import TransactionLimits
from rowcall.v1.error_reason_pb2 import ErrorReason

T = TypeVar("T")

_BEGIN: Final = "begin isolation level read committed read write"

# What DISCARD ALL does, within the transaction: behind a transaction pooler the next one may be another session's.
# Nothing is said of prepared statements: the pool prepares none, and a pooler's own are not ours to take away.
_RESET: Final = (
    "reset role; set session authorization default; reset all; close all; unlisten *; "
    "select pg_advisory_unlock_all(); discard temp; discard sequences"
)
# A handler may have committed, and set what no rollback takes back, before it began another transaction.
_ROLL_BACK: Final = f"rollback; {_RESET}"


class PostgresTransactions:
    """A `rowcall.queue.transactions.Transactions` over a pool of one shard."""

    def __init__(
        self,
        pool: Pool,
        settler: Settler,
        shield: Shield,
        limits: TransactionLimits,
        *,
        shard: str,
        give_up_after: timedelta,
    ) -> None:
        """
        Args:
            pool: Of connections that prepare no statements; it bounds how many transactions are open.
            settler: Writes the settlements.
            shield: What ends a transaction runs to its own end in it.
            limits: How long things may take.
            shard: The shard's name, for errors.
            give_up_after: How long settling and COMMIT may take before the connection is given up.
        """
        self._pool = pool
        self.settler = settler
        self.shield = shield
        self.limits = limits
        self.shard = shard
        self.give_up_after = give_up_after

    async def begin(self, *, threaded: bool, expired: Callable[[], None]) -> PostgresJobTransaction:
        """See Transactions.begin."""
        try:
            connection: Connection = await self._pool.getconn(self.limits.wait.total_seconds())
        except psycopg.Error as error:
            cause = fault(error, shard=self.shard)
            raise RowcallError(
                cause.reason,
                f"The handler waited for its job's transaction. {cause.message} If connections are short, raise "
                "ROWCALL_POOL_TRANSACTION or ROWCALL_TRANSACTION_WAIT, or make transactions shorter.",
                metadata=cause.metadata,
                retry_after=cause.retry_after,
            ) from error
        try:
            if not connection.autocommit:
                await connection.set_autocommit(True)
            await connection.execute(_BEGIN)
            began = await open_transaction(connection, self.limits)
            return PostgresJobTransaction(self, connection, began, threaded=threaded, expired=expired)
        except BaseException as error:
            await connection.close()
            await self._pool.putconn(connection)
            if isinstance(error, psycopg.Error):
                raise fault(error, shard=self.shard) from error
            raise

    async def give_back(self, connection: Connection) -> None:
        """Takes a connection back whose transaction is over."""
        await self._pool.putconn(connection)


async def open_transaction(connection: Connection, limits: TransactionLimits) -> datetime:
    """Sets an open transaction's time limits, for it alone; when it began, which no other of its session did."""
    row = (
        await execute(
            connection,
            "open_transaction",
            {"idle": _milliseconds(limits.idle), "statement": _milliseconds(limits.length)},
        )
    )[0]
    began: datetime = row[0]
    return began


class PostgresJobTransaction:
    """A `rowcall.queue.transactions.JobTransaction` on a connection of the pool."""

    def __init__(
        self,
        owner: PostgresTransactions,
        connection: Connection,
        began: datetime,
        *,
        threaded: bool,
        expired: Callable[[], None],
    ) -> None:
        """
        Args:
            owner: Which it was begun by.
            connection: The pool's, in an open transaction.
            began: When that was, by the database.
            threaded: Whether the handler runs in a thread.
            expired: Called when the transaction has reached its limit.
        """
        self._owner = owner
        self._pooled = connection
        self._began = began
        self._told_expired = expired
        pgconn = connection.pgconn
        # Lending puts other handlers of notices in their place.
        self._handlers: tuple[Any, Any] = (pgconn.notice_handler, pgconn.notify_handler)
        self.connection: LentConnection | LentAsyncConnection = (
            LentConnection(pgconn) if threaded else LentAsyncConnection(pgconn)
        )
        """What the handler uses; for handlers in threads, a psycopg.Connection."""
        self._loop = asyncio.get_running_loop()
        # A duplicate: however the connection is closed meanwhile, its number is not another file's by then.
        self._socket = socket.socket(fileno=os.dup(pgconn.socket))
        self._expired = False
        self._unused = True
        """Whether nobody was using the connection when it was taken from the handler."""
        self._own = False
        """Whether the handler ended the transaction itself: what it has set in the session since, nothing has undone."""
        self._ended = False
        """Whether the handler has no say any more."""
        self._timer = self._loop.call_later(owner.limits.length.total_seconds(), self._expire)
        self._ending = asyncio.Lock()
        """Held by whatever ends the transaction: it may still run when whoever waited for it goes on to the next."""

    def seal(self) -> TransactionFault | None:
        """See JobTransaction.seal."""
        if self._ended:
            return self._lost("was ended before its handler was")
        self._ended = True
        self._timer.cancel()
        self._unused = self.connection.use.seal()
        pgconn = self._pooled.pgconn
        if self._expired:
            return too_long(self._owner.limits.length)
        if pgconn.status == ConnStatus.BAD:
            return self._lost(
                "lost its connection, or did nothing for longer than "
                f"{self._owner.limits.idle.total_seconds():g} s between two statements"
            )
        if not self._unused or pgconn.transaction_status == TransactionStatus.ACTIVE:
            return _misused("The handler ended while a statement of its job's transaction was still running.")
        if pgconn.transaction_status == TransactionStatus.IDLE:
            self._own = True
            return _misused(_ENDED_ITSELF)
        return None

    def cut(self) -> None:
        """See JobTransaction.cut."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self.connection.use.seal()
            self._shut()

    async def settle(self, settlement: Settlement) -> Settled:
        """See JobTransaction.settle. What is found out late is raised as psycopg.Error."""
        return await self._owner.shield.run(self._after(self._settle(settlement)))

    async def roll_back(self) -> None:
        """See JobTransaction.roll_back."""
        await self._owner.shield.run(self._after(self._roll_back()))

    async def close(self) -> None:
        """See JobTransaction.close."""
        await self._owner.shield.run(self._after(self._close()))

    async def _after(self, end: Coroutine[Any, Any, T]) -> T:
        """Carries out an end of it behind one that is under way: a connection that is waited on must not be closed."""
        async with self._ending:
            return await end

    async def _settle(self, settlement: Settlement) -> Settled:
        self._take_back()
        connection = self._pooled
        try:
            with cut_off(connection, self._owner.give_up_after), replicated(connection):
                await connection.execute(_RESET)
                await self._check_own()
                settled = await self._written(settlement)
                if settled:
                    await connection.execute("commit")
                else:
                    await self._roll_back()
        except Exception as error:
            await self._roll_back()
            if isinstance(error, (psycopg.Error, OSError)) and lost(error):
                raise self._lost("lost its connection") from error
            if collided(error):
                raise self._lost("collided with another one") from error
            raise
        if not settled:
            # Nothing of the transaction counts, but the money is gone.
            await self._owner.settler.book(settlement)
            return NOT_OURS
        return Settled(settled=True, state=settled[0][1], waiter_id=settled[0][2])

    async def _check_own(self) -> None:
        """The handler must not have ended the transaction; nor begun another one."""
        if await open_transaction(self._pooled, self._owner.limits) != self._began:
            self._own = True
            raise _misused(_ENDED_ITSELF)

    async def _written(self, settlement: Settlement) -> Sequence[TupleRow]:
        try:
            return await self._owner.settler.settle_within(self._pooled, [settlement])
        except psycopg.Error as error:
            if of_a_row(error):
                # Ours, not the handler's.
                raise fault(error, shard=self._owner.shard) from error
            raise

    async def _roll_back(self) -> None:
        self._take_back()
        connection = self._pooled
        if not self._usable():
            await self._discard()
            return
        try:
            with cut_off(connection, self._owner.give_up_after):
                await connection.execute(_ROLL_BACK)
        except Exception:  # noqa: BLE001  the server rolls back what has lost its connection
            await self._discard()

    async def _close(self) -> None:
        self.cut()
        await self._idle()
        self._take_back()
        if not self._usable() or self._pooled.pgconn.transaction_status != TransactionStatus.IDLE:
            await self._discard()
        self._socket.close()
        await self._owner.give_back(self._pooled)

    async def _discard(self) -> None:
        self._shut()
        await self._idle()
        await self._pooled.close()

    async def _idle(self) -> None:
        """A thread that the handler has left behind may be inside libpq, for as long as the shut socket takes to fail."""
        idle = asyncio.Event()

        def set_idle() -> None:
            self._loop.call_soon_threadsafe(idle.set)

        self.connection.use.when_idle(set_idle)
        await idle.wait()

    def _usable(self) -> bool:
        pgconn = self._pooled.pgconn
        return (
            self._unused
            and not self._own
            and not self.connection.use.spent
            and pgconn.status == ConnStatus.OK
            and pgconn.transaction_status
            in (
                TransactionStatus.IDLE,
                TransactionStatus.INTRANS,
                TransactionStatus.INERROR,
            )
        )

    def _take_back(self) -> None:
        pgconn = self._pooled.pgconn
        if pgconn.status == ConnStatus.OK:
            pgconn.notice_handler, pgconn.notify_handler = self._handlers

    def _expire(self) -> None:
        self._expired = True
        self.connection.use.seal()
        self._shut()
        self._told_expired()

    def _shut(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _lost(self, why: str) -> TransactionFault:
        return TransactionFault(
            ErrorReason.ERROR_REASON_TRANSACTION_LOST, f"The job's transaction {why}. Nothing of it was kept."
        )


_ENDED_ITSELF: Final = (
    "The handler ended its job's transaction itself (COMMIT, ROLLBACK); what it wrote may have been kept. It must leave "
    "that to the worker."
)


def _misused(message: str) -> TransactionFault:
    return TransactionFault(ErrorReason.ERROR_REASON_TRANSACTION_MISUSED, message)


def _milliseconds(duration: timedelta) -> str:
    return str(max(duration // timedelta(milliseconds=1), 1))
