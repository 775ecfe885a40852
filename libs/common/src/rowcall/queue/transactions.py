"""The job's own transaction: what a handler writes through it commits with the job's settlement, or not at all.

Called by the worker. A connection is lent to the handler inside an open transaction; when the handler has succeeded, its
settlement is written inside that transaction, and then it is committed. If the lease number is no longer the row's, or anything
else goes wrong, everything is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from rowcall.queue.faults import TransactionFault
from rowcall.queue.model import Settled, Settlement


@dataclass(frozen=True, slots=True)
class TransactionLimits:
    """How long things may take."""

    length: timedelta
    """A transaction, from its beginning to the end of the handler."""
    idle: timedelta
    """The pause between two of its statements; shorter than the lease, so that a frozen process holds no locks on."""
    wait: timedelta
    """The wait for a free connection."""


class Transactions(Protocol):
    """The transactions of one shard's jobs; made by a `WorkQueue`."""

    @property
    def limits(self) -> TransactionLimits:
        """How long things may take."""

    async def begin(self, *, threaded: bool, expired: Callable[[], None]) -> JobTransaction:
        """Begins a transaction on a connection of its own. `close` gives it back.

        Args:
            threaded: Whether the handler runs in a thread.
            expired: Called when the transaction has reached its limit; it was ended then.

        Raises:
            RowcallError: SHARD_UNAVAILABLE: there was no connection in time.
        """


class JobTransaction(Protocol):
    """One attempt's transaction. Everything is called in the event loop; the handler has `connection`."""

    @property
    def connection(self) -> object:
        """What the handler uses, as the store's own driver has it: with Postgres a psycopg.Connection for handlers in
        threads, a psycopg.AsyncConnection for others."""

    def seal(self) -> TransactionFault | None:
        """Takes the connection from the handler, which has ended; why the transaction cannot be committed, if so."""

    def cut(self) -> None:
        """Ends the transaction under a handler that still runs: its statements fail from now on. Nothing is kept.

        Without effect once it was sealed: a COMMIT is never cancelled.
        """

    async def settle(self, settlement: Settlement) -> Settled:
        """Settles inside the transaction and commits, or keeps nothing of it. Runs to its end whatever its caller does.

        Returns:
            What became of the settlement. Not settled: the lease is another's, and everything was rolled back.

        Raises:
            TransactionFault: Nothing was kept; or, where the COMMIT was sent, nobody knows. In both cases the attempt is to
                be settled as failed, under the same lease number.
            ChildRefusedError: A job that the handler submitted was refused.
            Exception: A statement of the handler's is at fault, found out late: a deferred constraint.
        """

    async def roll_back(self) -> None:
        """Keeps nothing. Raises nothing: a connection that does not do it is closed. Runs to its end likewise."""

    async def close(self) -> None:
        """Gives the connection back, when the handler has ended. Runs to its end likewise."""
