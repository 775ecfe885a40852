"""The transaction of one attempt, begun when its handler first asks for it (`context.transaction()`).

Made by `rowcall_worker.serving.context`. When the handler has ended, `rowcall_worker.running.executor` takes the connection from it,
and `rowcall_worker.settling.settler` settles inside the transaction, or rolls it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import psycopg
from psycopg.rows import TupleRow

from rowcall.errors import RowcallError
from rowcall.queue.faults import TransactionFault
from rowcall.queue.model import Settled, Settlement
from rowcall.queue.transactions import JobTransaction, Transactions


class AttemptTransaction:
    """At most one transaction: whoever asks again gets the same connection. In the event loop, if nothing else is said."""

    def __init__(
        self,
        transactions: Transactions,
        loop: asyncio.AbstractEventLoop,
        *,
        threaded: bool,
        expired: Callable[[], None],
    ) -> None:
        """Args:
        transactions: The shard's.
        loop: The worker's, in which everything but the handler's own statements happens.
        threaded: Whether the handler runs in a thread.
        expired: Called when the transaction has reached its limit.
        """
        self._transactions = transactions
        self._loop = loop
        self._threaded = threaded
        self._expired = expired
        self._beginning: asyncio.Task[JobTransaction] | None = None
        self._over = False

    async def connection(self) -> psycopg.AsyncConnection[TupleRow]:
        """The connection, for a handler in the event loop. Raises RowcallError: there is none in time."""
        return cast("psycopg.AsyncConnection[TupleRow]", (await self._begun()).connection)

    def connection_in_thread(self) -> psycopg.Connection[TupleRow]:
        """The connection, for a handler in a thread; to be called there. Raises RowcallError: there is none in time."""
        begun = asyncio.run_coroutine_threadsafe(self._begun(), self._loop).result()
        return cast("psycopg.Connection[TupleRow]", begun.connection)

    def seal(self) -> TransactionFault | None:
        """The handler has ended: why the transaction cannot be committed, if so."""
        self._over = True
        transaction = self._transaction()
        return None if transaction is None else transaction.seal()

    def cut(self) -> None:
        """Ends the transaction under a handler that still runs; it can begin none either."""
        self._over = True
        transaction = self._transaction()
        if transaction is not None:
            transaction.cut()

    async def settle(self, settlement: Settlement) -> Settled | None:
        """See JobTransaction.settle. None: no transaction was begun, and nothing settled."""
        transaction = self._transaction()
        return None if transaction is None else await transaction.settle(settlement)

    async def roll_back(self) -> None:
        """See JobTransaction.roll_back."""
        transaction = self._transaction()
        if transaction is not None:
            await transaction.roll_back()

    async def close(self) -> None:
        """Gives the connection back, also one that is only now being waited for. After the handler's end."""
        self._over = True
        if self._beginning is not None:
            try:
                transaction = await asyncio.shield(self._beginning)
            except RowcallError:
                return
            await transaction.close()

    def _transaction(self) -> JobTransaction | None:
        beginning = self._beginning
        if beginning is None or not beginning.done() or beginning.cancelled() or beginning.exception() is not None:
            return None
        return beginning.result()

    async def _begun(self) -> JobTransaction:
        if self._over:
            raise psycopg.OperationalError("the attempt is over: there is no transaction of its job any more")
        if self._beginning is None:
            self._beginning = self._loop.create_task(
                self._transactions.begin(threaded=self._threaded, expired=self._expired)
            )
        beginning = self._beginning
        try:
            # A handler that is cancelled ends its own waiting only: what it asked for is given back by `close`.
            transaction = await asyncio.shield(beginning)
        except RowcallError:
            if self._beginning is beginning:
                self._beginning = None
            raise
        if self._over:
            raise psycopg.OperationalError("the attempt is over: there is no transaction of its job any more")
        return transaction
