"""A pool's connection as a handler gets it: in a transaction that is not the handler's to end.

Made by `rowcall.queue.postgres.transaction` around the libpq connection of a pooled `AsyncConnection`, for one attempt: row
factory, adapters, notice handlers and everything else that psycopg keeps on a connection object belong to the attempt,
and the pool's own object stays as it was. When the attempt is over, what the handler still holds refuses to be used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NoReturn, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn
from psycopg.rows import TupleRow, tuple_row

from rowcall import sessions

_RV = TypeVar("_RV")

_NOT_YOURS: Final = (
    "the job's transaction is committed with the job's outcome, or not at all: return to commit, raise to roll back; "
    "`with connection.transaction():` makes a part of it that can be rolled back alone"
)
_OVER: Final = "the job's transaction is over: its connection can no longer be used"


class Use:
    """Whether a lent connection is in use this moment, by whichever thread, and whether it may be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._sealed = False
        self._idle: Callable[[], None] | None = None
        self.spent = False
        """Whether the server refused something for the state that the session is in."""

    def seal(self) -> bool:
        """Lets nobody use it from now on; whether nobody does."""
        with self._lock:
            self._sealed = True
            return not self._users

    def when_idle(self, call: Callable[[], None]) -> None:
        """Calls back when nobody uses the sealed connection any more, from whichever thread that is in; or at once."""
        with self._lock:
            if self._users:
                self._idle = call
                return
        call()

    def __enter__(self) -> None:
        with self._lock:
            if self._sealed:
                raise psycopg.OperationalError(_OVER)
            self._users += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self.spent = self.spent or (error is not None and sessions.is_spent(error))
            self._users -= 1
            idle = self._idle if not self._users else None
        if idle is not None:
            idle()


class LentConnection(psycopg.Connection[TupleRow]):
    """For handlers in threads. Everything that talks to the server goes through `wait`."""

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__(pgconn, row_factory=tuple_row)
        self.use = Use()
        # Statements prepared here would be unknown to the pool's own object, and share their names with its own.
        self.prepare_threshold = None

    def wait(self, gen: PQGen[_RV], *args: Any, **kwargs: Any) -> _RV:
        """As psycopg's, while the transaction lasts. Raises OperationalError when it is over."""
        with self.use:
            return super().wait(gen, *args, **kwargs)

    def commit(self) -> NoReturn:
        """Refused."""
        raise psycopg.ProgrammingError(_NOT_YOURS)

    def rollback(self) -> NoReturn:
        """Refused."""
        raise psycopg.ProgrammingError(_NOT_YOURS)

    def close(self) -> NoReturn:
        """Refused."""
        raise psycopg.ProgrammingError(_NOT_YOURS)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Ends nothing: psycopg's own would commit and close."""

    def __del__(self, *_: object) -> None:
        """The libpq connection is the pool's to close."""


class LentAsyncConnection(psycopg.AsyncConnection[TupleRow]):
    """For handlers in the event loop. Everything that talks to the server goes through `wait`."""

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__(pgconn, row_factory=tuple_row)
        self.use = Use()
        self.prepare_threshold = None

    async def wait(self, gen: PQGen[_RV], *args: Any, **kwargs: Any) -> _RV:
        """As psycopg's, while the transaction lasts. Raises OperationalError when it is over."""
        with self.use:
            return await super().wait(gen, *args, **kwargs)

    async def commit(self) -> NoReturn:
        """Refused."""
        raise psycopg.ProgrammingError(_NOT_YOURS)

    async def rollback(self) -> NoReturn:
        """Refused."""
        raise psycopg.ProgrammingError(_NOT_YOURS)

    async def close(self) -> NoReturn:
        """Refused."""
        raise psycopg.ProgrammingError(_NOT_YOURS)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Ends nothing: psycopg's own would commit and close."""

    def __del__(self, *_: object) -> None:
        """The libpq connection is the pool's to close."""
