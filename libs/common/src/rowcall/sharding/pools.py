"""Connections: how they are made, and a bounded pool of them for each shard and workload.

Called by `shard` and `router`, and by whoever needs a dedicated connection (`connection_string`). A pool is opened
without waiting for its database: one that is down makes calls fail, typed, and is used once it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from time import monotonic
from typing import Any, Final, Self, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from rowcall import forks, sessions
from rowcall.errors import RowcallError
from rowcall.liveness import is_alive, shut
from rowcall.security import database_tls, passwords
from rowcall.settings import ClusterSettings, Dsn, with_password_file
from rowcall.sharding.durability import settle_in
from rowcall.sharding.model import Workload

_RV = TypeVar("_RV")

_log = structlog.get_logger(__name__)

STATEMENT_TIMEOUTS: Final[Mapping[Workload, timedelta]] = {
    Workload.SUBMIT: timedelta(seconds=10),
    Workload.READ: timedelta(seconds=10),
    Workload.CLAIM: timedelta(seconds=10),
    Workload.SETTLE: timedelta(seconds=20),
    Workload.MAINTENANCE: timedelta(seconds=60),
    # Each transaction sets its own.
    Workload.TRANSACTION: timedelta(seconds=20),
}
"""After how long Postgres ends a statement. It does not end the COMMIT of it: Postgres stops this clock first, and a
commit must not be cancelled, because one that waits for a standby is then reported as done without being there."""

IDLE_IN_TRANSACTION_TIMEOUT: Final = timedelta(seconds=5)
"""After how long Postgres ends a session that stopped inside a transaction: shorter than any lease, so that a frozen
process does not hold locks on jobs that were rescued from it."""

_TRANSPORT: Final[Mapping[str, str]] = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    # Milliseconds: what was sent and is not acknowledged for so long ends the connection.
    "tcp_user_timeout": "15000",
}

_TRY_AGAIN_AFTER: Final = 0.5
"""Seconds between attempts to reach a database that is away. psycopg_pool doubles its own pauses up to minutes, which
would leave a pool idle long after its server is back: it is told to give up at once, and `_gone` starts it again."""

_LOOK_UP_AFTER: Final = 0.25
"""Seconds after which whoever waits for a connection looks whether the database is away."""

_LEAST_WAIT: Final = 0.1
"""Seconds to wait for a connection to a database that has been away for long."""


_READ_ONLY: Final = ("session is read-only", "server is in hot standby mode")
"""libpq's words for a server that target_session_attrs passes over, and ours."""


def connection_string(
    dsn: str,
    settings: ClusterSettings,
    *,
    application: str,
    statement_timeout: timedelta | None = None,
    lent: bool = False,
) -> Dsn:
    """A connection string with our timeouts and with what our sessions need, for pools and for dedicated connections.

    What the operator's own string says about timeouts stands; what sessions need it cannot change, and neither can what
    is said of the login, the database or the server. Through a transaction pooler, which takes no options, only the
    encoding is said.

    Args:
        dsn: As in the settings.
        settings: For the time to connect, and whether a pooler is between.
        application: Names service and purpose in pg_stat_activity.
        statement_timeout: None: none, as for a connection that listens.
        lent: Whether handlers run statements of their own in the session: how those are read is theirs and the operator's.
    """
    given = conninfo_to_dict(dsn)
    parameters: dict[str, str] = {
        **_TRANSPORT,
        "connect_timeout": str(max(2, round(settings.connect_timeout.total_seconds()))),
    }
    parameters = {key: value for key, value in parameters.items() if key not in given}
    parameters["application_name"] = application
    parameters["client_encoding"] = sessions.ENCODING
    if not settings.transaction_pooler:
        # A pooler is asked for a server of its choice, and says what one of its sessions was told once.
        parameters.setdefault("target_session_attrs", str(given.get("target_session_attrs") or "read-write"))
        timeouts = {
            "idle_in_transaction_session_timeout": str(_milliseconds(IDLE_IN_TRANSACTION_TIMEOUT)),
            "statement_timeout": "0" if statement_timeout is None else str(_milliseconds(statement_timeout)),
            "lock_timeout": "0",
        }
        own = None if given.get("options") is None else str(given["options"])
        parameters["options"] = sessions.options(timeouts, own, sessions.KEPT, {} if lent else sessions.READ)
    return with_password_file(dsn, settings.password_file).with_parameters(parameters)


class NoConnection(RowcallError, PoolTimeout):
    """A pool gave no connection: an error for the caller of the RPC, and to code that knows pools only, a timeout."""

    def __init__(self, error: RowcallError) -> None:
        super().__init__(error.reason, error.message, metadata=error.metadata, retry_after=error.retry_after)


class Pool(AsyncConnectionPool[AsyncConnection[TupleRow]]):
    """A bounded pool of autocommit connections. `getconn` and `connection` raise NoConnection.

    A session is looked at before it is given out, and closed when it is given back spent (`rowcall.sessions`): one that
    cannot write would refuse call after call for as long as it lives, while a new one may lead to another server.
    """

    def __init__(
        self,
        dsn: Dsn,
        settings: ClusterSettings,
        *,
        name: str,
        size: int,
        unavailable: Callable[[str], RowcallError],
        ride_out: float,
        lent: bool = False,
    ) -> None:
        """
        Args:
            dsn: Made by `connection_string`.
            settings: For timeouts and preparing.
            name: For logs.
            size: The most connections.
            unavailable: Makes the error of the reason why there is no connection: "cannot be reached".
            ride_out: For how many seconds of an outage calls wait for its end (a restart); later they are refused
                almost at once.
            lent: Whether handlers run statements of their own on the connections: then nothing is prepared in their
                sessions, and none is opened before it is needed.
        """
        self._unavailable = unavailable
        self._ride_out = ride_out
        self._gone_at: float | None = None
        self._lent = 0
        self._failed: psycopg.Error | None = None
        self._straight = not settings.transaction_pooler
        self._relaxed = settings.relaxed_durability
        self._patience = settings.connect_timeout.total_seconds()
        self._limited = "transaction_timeout" in str(conninfo_to_dict(dsn).get("options"))
        self._trusted_from = 0.0
        """When all sessions of that time were closed: those that are older are known to be spent."""

        class Noting(AsyncConnection[TupleRow]):
            """Leaves with the pool why it could not connect: psycopg_pool tells its own log only. Keeps that its session
            is spent."""

            made_at = 0.0

            @classmethod
            async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
                try:
                    made = await passwords.connect(super().connect, conninfo, **kwargs)
                    made.made_at = monotonic()
                    if pool._straight:
                        await pool._look_at(made)
                except psycopg.Error as error:
                    pool._failed = error
                    raise
                return made

            async def wait(self, gen: PQGen[_RV], *args: Any, **kwargs: Any) -> _RV:
                try:
                    return await super().wait(gen, *args, **kwargs)
                except psycopg.Error as error:
                    sessions.note(self, error)
                    raise

        pool = self
        super().__init__(
            dsn,
            connection_class=Noting,
            kwargs={
                "autocommit": True,
                "prepare_threshold": None if lent else settings.prepare_after,
            },
            min_size=0 if lent else 1,
            max_size=size,
            open=False,
            name=name,
            timeout=settings.pool_timeout.total_seconds(),
            configure=self._came,
            reconnect_timeout=0,
            reconnect_failed=self._gone,
            num_workers=2,
        )

    async def getconn(self, timeout: float | None = None) -> AsyncConnection[TupleRow]:  # noqa: ASYNC109 - psycopg_pool's
        """A connection that is not known to be broken; waits at most `timeout` seconds (None: the pool's)."""
        limit = self.timeout if timeout is None else timeout
        deadline = monotonic() + limit
        try:
            while True:
                connection = await self._first_free(deadline)
                works = False
                try:
                    works = await is_alive(connection)
                    if works and self._straight and not sessions.takes_writes(connection.pgconn):
                        works = False
                        await connection.close()
                finally:
                    # Not psycopg_pool's own check: that waits longer after each broken connection, and after a restart
                    # of the server all of them are.
                    if not works:
                        await self.putconn(connection)
                if works:
                    # Whatever an attempt at a further one came to: it serves.
                    await self._came(connection)
                    return connection
        except PoolTimeout:
            raise NoConnection(self._unavailable(self._why(limit))) from None
        except TooManyRequests:
            raise NoConnection(self._unavailable("has too many calls waiting for a connection")) from None
        except PoolClosed:
            raise NoConnection(self._unavailable("is no longer used by this process, which is stopping")) from None

    async def _look_at(self, made: AsyncConnection[TupleRow]) -> None:
        """Makes a new session what it must be. Raises psycopg.Error if it cannot be; it is closed then."""
        if not sessions.takes_writes(made.pgconn):
            await made.close()
            # The connection string leads to any server.
            raise sessions.ReadOnlySession("session is read-only")
        work = settle_in(made, relaxed=self._relaxed, limited=self._limited, pool=self.name)
        settling = asyncio.get_running_loop().create_task(work)
        usable = False
        try:
            await asyncio.wait({settling}, timeout=self._patience)
            if not settling.done():
                raise psycopg.errors.ConnectionTimeout(f"a new session said nothing for {self._patience:g} s")
            settling.result()
            usable = True
        finally:
            if not usable:
                # A frozen server answers no cancellation either. Closed is it behind the work that waits for it: libuv ends
                # the process when it is to watch a descriptor that is closed.
                shut(made)
                await asyncio.gather(settling, return_exceptions=True)
                await made.close()

    async def putconn(self, conn: AsyncConnection[TupleRow]) -> None:
        """Takes a connection back."""
        self._lent -= 1
        spent_by = sessions.spent_by(conn)
        if spent_by is not None:
            await conn.close()
        await super().putconn(conn)
        if (
            spent_by is not None
            and self._straight
            and not self.closed
            and sessions.is_spent_for_all(spent_by)
            and getattr(conn, "made_at", 0.0) > self._trusted_from
        ):
            # Each of the others would have cost a call of its own to find out.
            self._trusted_from = monotonic()
            await self.drain()

    def _why(self, limit: float) -> str:
        if self._gone_at is None:
            return f"gave no free connection within {limit:g} s"
        failed = str(self._failed or "")
        if any(each in failed for each in _READ_ONLY):
            return "takes no writes now: it is a standby, or was set to read only"
        return "cannot be reached"

    async def _first_free(self, deadline: float) -> AsyncConnection[TupleRow]:
        now = monotonic()
        first = min(self._latest(deadline), now + _LOOK_UP_AFTER)
        try:
            connection = await super().getconn(first - now)
        except PoolTimeout:
            # Twice at most: asking again costs the place in the queue.
            connection = await super().getconn(self._latest(deadline) - monotonic())
        self._lent += 1
        return connection

    def _latest(self, deadline: float) -> float:
        """Until when to wait, of the time there is: not long for a database that has been away for a while."""
        if self._gone_at is None:
            return deadline
        return min(deadline, max(self._gone_at + self._ride_out, monotonic() + _LEAST_WAIT))

    async def _came(self, connection: AsyncConnection[TupleRow]) -> None:
        forks.hold(connection)
        if self._gone_at is not None:
            self._gone_at = None
            _log.info("database reachable again", pool=self.name)

    async def _gone(self, _pool: AsyncConnectionPool[AsyncConnection[TupleRow]]) -> None:
        # With connections left, the server is there and only gives no more of them.
        if self._gone_at is None and not self._lent and not self.get_stats()["pool_available"]:
            self._gone_at = monotonic()
            # libpq's message names host, port, user and database, and no password.
            _log.warning("database unreachable, trying on", pool=self.name, cause=_cause(self._failed))
        await asyncio.sleep(_TRY_AGAIN_AFTER)
        if not self.closed:
            await self.check()  # lets the pool grow, hence connect


def _cause(error: psycopg.Error | None) -> str:
    said = str(error or "").strip()
    todo = None if error is None else database_tls.advice(error)
    return said if todo is None else f"{said}. {todo}"


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
