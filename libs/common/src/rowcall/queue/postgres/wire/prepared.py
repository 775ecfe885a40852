"""Prepared statements as they go over the wire: sent, answered, read. Called by `connection`.

psycopg's cursors are for every statement that there may be: what they make anew and look up for each one is nearly half
of a short statement's time in this process (45 us, and 24 without, on the machine that this was written on). Here the statements
are few and known, and what can be kept is kept with the connection. The libpq calls are psycopg's own (`psycopg.pq`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Final, NamedTuple

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow

from rowcall import sessions
from rowcall.queue.postgres.statements import statement
from rowcall.queue.postgres.wire.types import Connection
from rowcall.queue.postgres.wire.watch import Watch

_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s")
_KEPT: Final = "_rowcall_prepared"
"""The attribute of a connection that holds its statements: they end with its session."""
_CANCEL_WITHIN: Final = 5.0
"""Seconds that a cancelled statement has to end in. A connection that is busy afterwards is closed by its pool."""
_REST_WITHIN: Final = 1.0
"""Seconds that the statement behind another has to end in; then the connection is closed."""


class _Statement(NamedTuple):
    text: bytes
    """With $1, $2, … where psycopg's form has names."""
    parameters: tuple[str, ...]
    """Their names, in that order."""
    formats: tuple[PyFormat, ...]
    """As many times AUTO: binary wherever psycopg can."""


@cache
def _numbered(name: str) -> _Statement:
    parameters: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in parameters:
            parameters.append(match[1])
        return f"${parameters.index(match[1]) + 1}"

    text = _PLACEHOLDER.sub(number, statement(name).decode())
    return _Statement(text.encode(), tuple(parameters), (PyFormat.AUTO,) * len(parameters))


class Behind(NamedTuple):
    """A statement that is sent along with another one, to be run when that one is committed, or refused."""

    name: str
    parameters: Mapping[str, object]


async def run(
    connection: Connection,
    name: str,
    parameters: Mapping[str, object] | None = None,
    *,
    behind: Behind | None = None,
) -> list[TupleRow]:
    """Runs one of the queue's statements, prepared; its rows. Parameters and rows are binary.

    With another one behind it, that one may still run when this returns, and nothing else may be done with the
    connection then: see `rest`.

    Raises psycopg.Error.
    """
    kept: _Prepared | None = getattr(connection, _KEPT, None)
    if kept is None:
        kept = _Prepared(connection)
        setattr(connection, _KEPT, kept)
    async with connection.lock:
        return await kept.run(name, parameters or {}, behind)


def rest(connection: Connection) -> asyncio.Future[bool] | None:
    """Of the statement behind the last one that was run: done when it has ended, true if it succeeded. None: there is none.

    It ends within a second; the connection may be closed then.
    """
    kept: _Prepared | None = getattr(connection, _KEPT, None)
    return None if kept is None else kept.rest


class _Ready(NamedTuple):
    """A statement that is prepared, with its parameters as they are sent."""

    name: bytes
    values: Sequence[Buffer | None]
    formats: Sequence[Format]


class _Prepared:
    """The statements of one session."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        # Keeps the dumpers and loaders that it has made. One statement at a time may use it.
        self._transformer = Transformer(connection)
        self._watch = Watch(self._pgconn)
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self.rest: asyncio.Future[bool] | None = None
        """See the function `rest`."""

    async def run(self, name: str, parameters: Mapping[str, object], behind: Behind | None) -> list[TupleRow]:
        """See the function `run`."""
        self.rest = None
        ready = await self._ready(name, parameters)
        if behind is None:
            self._send(ready)
            result = await self._answer()
        else:
            following = await self._ready(*behind)
            try:
                self._pgconn.enter_pipeline_mode()
                for each in (ready, following):
                    self._send(each)
                    self._pgconn.pipeline_sync()
            except psycopg.Error:
                # Nobody could use it as it is now.
                self._watch.close()
                self._pgconn.finish()
                raise
            result = await self._answer(behind=True)
        transformer = self._transformer
        transformer.set_pgresult(result, format=Format.BINARY)
        try:
            rows: list[TupleRow] = transformer.load_rows(0, result.ntuples, tuple)
        finally:
            transformer.set_pgresult(None)
        return rows

    async def _ready(self, name: str, parameters: Mapping[str, object]) -> _Ready:
        """Prepares a statement, if it is not yet.

        The types belong to it, as they do with psycopg: a parameter may be null, or a number of another size.
        """
        numbered = _numbered(name)
        transformer = self._transformer
        values = transformer.dump_sequence([parameters[each] for each in numbered.parameters], numbered.formats)
        types, formats = transformer.types or (), transformer.formats or ()
        prepared = self._names.get((name, types))
        if prepared is None:
            prepared = f"rowcall_{len(self._names)}".encode()
            self._pgconn.send_prepare(prepared, numbered.text, types)
            await self._answer()
            self._names[name, types] = prepared
        return _Ready(prepared, values, formats)

    def _send(self, ready: _Ready) -> None:
        self._pgconn.send_query_prepared(ready.name, ready.values, ready.formats, Format.BINARY)

    async def _answer(self, *, behind: bool = False) -> PGresult:
        """What the server says to what was just sent. Cancelled, it has the server cancel it and waits for that."""
        exchange = _Exchange(self._connection, self._watch, behind=behind)
        self.rest = exchange.rest
        try:
            return await exchange.answer()
        except asyncio.CancelledError:
            if self._pgconn.transaction_status == TransactionStatus.ACTIVE:
                with suppress(psycopg.Error, TimeoutError):
                    async with asyncio.timeout(_CANCEL_WITHIN):
                        await self._connection.cancel_safe(timeout=_CANCEL_WITHIN)
                        await exchange.answer()
            exchange.abandon()
            raise


class _Exchange:
    """What comes back for one statement, or for two in a pipeline."""

    def __init__(self, connection: Connection, watch: Watch, *, behind: bool) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._watch = watch
        self._loop = watch.loop
        self._result: PGresult | None = None
        self._error: Exception | None = None
        self._over = False
        """Whether everything about the first statement is known."""
        self._wake: asyncio.Future[None] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self.rest: asyncio.Future[bool] | None = self._loop.create_future() if behind else None
        """Done when the second one has ended; whether it succeeded."""
        self._rest_failed = False
        watch.start(self._readable, self._failed)

    async def answer(self) -> PGresult:
        """The first one's result, once its transaction is over. Raises psycopg.Error."""
        if not self._over:
            self._wake = self._loop.create_future()
            await self._wake
        if self._error is not None:
            raise self._error
        result = self._result
        if result is None:
            raise psycopg.OperationalError("the server has answered nothing")
        if result.status == ExecStatus.FATAL_ERROR:
            error = psycopg.errors.error_from_result(result, self._connection.info.encoding)
            sessions.note(self._connection, error)
            raise error
        return result

    def abandon(self) -> None:
        """Waits for nothing more of the first statement. If it still runs, the connection is closed."""
        if not self._over:
            self._failed(TimeoutError())
            self._pgconn.finish()

    def _readable(self) -> None:
        self._pgconn.consume_input()
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if self.rest is None:
                if result is None:
                    self._end()
                    return
                self._result = result
            elif result is not None and self._read_in_pipeline(result):
                return

    def _read_in_pipeline(self, result: PGresult) -> bool:
        """Takes a result of two statements; whether it was the last."""
        if result.status == ExecStatus.PIPELINE_SYNC:
            if self._over:
                self._pgconn.exit_pipeline_mode()
                self._end_rest(succeeded=not self._rest_failed)
                return True
            self._limit = self._loop.call_later(_REST_WITHIN, self._give_up)
            self._answered()
        elif self._over:
            self._rest_failed = result.status == ExecStatus.FATAL_ERROR
        else:
            self._result = result
        return False

    def _answered(self) -> None:
        self._over = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _end(self) -> None:
        self._watch.stop()
        self._answered()

    def _end_rest(self, *, succeeded: bool) -> None:
        self._watch.stop()
        if self._limit is not None:
            self._limit.cancel()
        if self.rest is not None and not self.rest.done():
            self.rest.set_result(succeeded)

    def _failed(self, error: Exception) -> None:
        self._watch.close()
        if not self._over:
            self._error = error
            self._answered()
        if self.rest is not None:
            # Whatever it was, nobody knows what would come next on this connection.
            self._pgconn.finish()
            self._end_rest(succeeded=False)

    def _give_up(self) -> None:
        self._failed(TimeoutError())
