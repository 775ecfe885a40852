"""Prepared statements as they go over the wire: sent, answered, read. Called by `connection`.

psycopg's cursors are for every statement that there may be: what they make anew and look up for each one is nearly half
of a short statement's time in this process (45 us, and 24 without, on the machine that this was written on). Here the statements
are few and known, and what can be kept is kept with the connection. The libpq calls are psycopg's own (`psycopg.pq`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow

from rowcall.queue.statements import statement

if TYPE_CHECKING:
    from rowcall.queue.connection import Connection

_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s")
_KEPT: Final = "_rowcall_prepared"
"""The attribute of a connection that holds its statements: they end with its session."""
_LOOK_EVERY: Final = 0.1
"""Seconds between looks at a socket of which the loop has said nothing. Of a connection that was reset, libuv tells nobody
who only waits to read: it stops watching. (psycopg looks as often.)"""
_CANCEL_WITHIN: Final = 5.0
"""Seconds that a cancelled statement has to end in. A connection that is busy afterwards is closed by its pool."""


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


async def run(connection: Connection, name: str, parameters: Mapping[str, object] | None = None) -> list[TupleRow]:
    """Runs one of the queue's statements, prepared; its rows. Parameters and rows are binary.

    Raises psycopg.Error.
    """
    kept: _Prepared | None = getattr(connection, _KEPT, None)
    if kept is None:
        kept = _Prepared(connection)
        setattr(connection, _KEPT, kept)
    async with connection.lock:
        return await kept.run(name, parameters or {})


class _Prepared:
    """The statements of one session."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        # Keeps the dumpers and loaders that it has made. One statement at a time may use it.
        self._transformer = Transformer(connection)
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}

    async def run(self, name: str, parameters: Mapping[str, object]) -> list[TupleRow]:
        """See the function `run`."""
        numbered = _numbered(name)
        transformer = self._transformer
        values = transformer.dump_sequence([parameters[each] for each in numbered.parameters], numbered.formats)
        types, formats = transformer.types or (), transformer.formats
        prepared = self._names.get((name, types)) or await self._prepare(name, numbered.text, types)
        self._pgconn.send_query_prepared(prepared, values, formats, Format.BINARY)
        result = await self._result()
        transformer.set_pgresult(result, format=Format.BINARY)
        try:
            rows: list[TupleRow] = transformer.load_rows(0, result.ntuples, tuple)
        finally:
            transformer.set_pgresult(None)
        return rows

    async def _prepare(self, name: str, text: bytes, types: tuple[int, ...]) -> bytes:
        """The types belong to it, as they do with psycopg: a parameter may be null, or a number of another size."""
        prepared = f"rowcall_{len(self._names)}".encode()
        self._pgconn.send_prepare(prepared, text, types)
        await self._result()
        self._names[name, types] = prepared
        return prepared

    async def _result(self) -> PGresult:
        """What the server says to what was just sent. Cancelled, it has the server cancel it and waits for that."""
        answer = _Answer(self._connection)
        try:
            return await answer.wait()
        except asyncio.CancelledError:
            if self._pgconn.transaction_status == TransactionStatus.ACTIVE:
                with suppress(psycopg.Error, TimeoutError):
                    async with asyncio.timeout(_CANCEL_WITHIN):
                        await self._connection.cancel_safe(timeout=_CANCEL_WITHIN)
                        await answer.wait()
            raise


class _Answer:
    """What comes back for one statement."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._results: list[PGresult] = []
        self._done: asyncio.Future[None]
        self._reading: int | None = None
        """The socket that the loop watches for us."""
        self._writing = False
        self._looking: asyncio.TimerHandle | None = None

    async def wait(self) -> PGresult:
        """Waits until the server is done with it; the result. Raises psycopg.Error."""
        self._done = self._loop.create_future()
        # What is larger than the socket's buffer goes out as the server takes it, while what it says meanwhile is read.
        unsent = self._pgconn.flush() != 0
        self._reading = self._pgconn.socket
        self._loop.add_reader(self._reading, self._readable)
        if unsent:
            self._writing = True
            self._loop.add_writer(self._reading, self._writable)
        self._looking = self._loop.call_later(_LOOK_EVERY, self._look)
        try:
            await self._done
        finally:
            self._unwatch()
        result = self._results[-1]
        if result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result, self._connection.info.encoding)
        return result

    def _unwatch(self) -> None:
        """Has the loop no longer watch the socket.

        At once where libpq may have closed it: another connection may have a socket of the same number a moment later,
        and that one would no longer be watched then.
        """
        socket, self._reading = self._reading, None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if socket is not None:
            self._loop.remove_reader(socket)
            if self._writing:
                self._writing = False
                self._loop.remove_writer(socket)

    def _end(self, error: Exception | None) -> None:
        self._unwatch()
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    self._end(None)
                    return
                self._results.append(result)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._end(error)

    def _look(self) -> None:
        self._looking = None
        if self._writing:
            self._writable()
        if not self._done.done():
            self._readable()
        if not self._done.done():
            self._looking = self._loop.call_later(_LOOK_EVERY, self._look)

    def _writable(self) -> None:
        try:
            if self._pgconn.flush() == 0 and self._reading is not None:
                self._writing = False
                self._loop.remove_writer(self._reading)
        except Exception as error:  # noqa: BLE001 - as above
            self._end(error)
