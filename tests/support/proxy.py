"""A TCP proxy before a server, to break what runs through it: cut, silent as behind a pulled cable, or slow to answer.

It runs in a thread of its own, so it works for coroutines, for blocking tests and for processes alike, and goes on while
a test's loop is busy. `tests.dropping` builds on it a proxy that understands Postgres.

    with Proxy(*address_of(dsn)) as proxy:
        connect(proxy.through(dsn))
        proxy.hold()     # no byte passes, no connection ends; release() lets everything that waits go on
        proxy.cut()      # every connection there is ends, with a reset; new ones are taken
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from psycopg.conninfo import conninfo_to_dict, make_conninfo

T = TypeVar("T")

_CHUNK = 65536
_END_SECONDS = 10.0


def address_of(dsn: str) -> tuple[str, int]:
    """The host and port that a connection string leads to."""
    target = conninfo_to_dict(dsn)
    return str(target["host"]), int(str(target["port"]))


@dataclass(slots=True)
class Counts:
    """What a proxy has seen and done."""

    accepted: int = 0
    """Connections that clients made to it."""
    unreachable: int = 0
    """Of those, how many ended at once because the server could not be reached."""
    cut: int = 0
    """Connections that it broke."""
    upstream: int = 0
    """Bytes passed to the server."""
    downstream: int = 0
    """Bytes passed to the client."""


class Link:
    """One connection through a proxy. What passes, passes through here: a subclass may look, keep back, or break it off.

    Its methods run in the proxy's thread, one at a time.
    """

    def upstream(self, data: bytes) -> bytes:
        """What the client sent, as it came; returns what the server is to get."""
        return data

    def downstream(self, data: bytes) -> bytes | None:
        """What the server sent, as it came; returns what the client is to get, or None to cut the connection."""
        return data


class Proxy:
    """Forwards a port of its own on 127.0.0.1 to one server."""

    def __init__(self, host: str, port: int) -> None:
        """
        Args:
            host: The server's.
            port: The server's; it need not be there yet.
        """
        self.counts = Counts()
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy of port {port}", daemon=True)
        self._clients: set[asyncio.StreamWriter] = set()
        self._servers: set[asyncio.StreamWriter] = set()
        self._visits: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self._port

    def through(self, dsn: str) -> str:
        """A connection string that leads to the server, changed to lead through the proxy."""
        return make_conninfo(dsn, host="127.0.0.1", port=self._port)

    @property
    def links(self) -> int:
        """How many connections there are now."""
        return self._run(lambda: len(self._clients))

    def start(self) -> None:
        """Starts listening, on a free port."""
        self._thread.start()
        self._run(self._flowing.set)
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_END_SECONDS)

    def stop(self) -> None:
        """Ends every connection, and listening."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_END_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_SECONDS)
        self._loop.close()

    def cut(self) -> int:
        """Breaks every connection there is, on both sides, with a reset; returns how many. New ones are taken."""
        return self._run(self._cut)

    def hold(self) -> None:
        """From now on nothing passes, neither bytes nor the end of a connection: both sides see silence."""
        self._run(self._flowing.clear)

    def release(self) -> None:
        """Ends `hold`: what came meanwhile passes, in order."""
        self._run(self._flowing.set)

    def link(self) -> Link:
        """What a new connection passes through; for subclasses to override."""
        return Link()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, work: Callable[[], T]) -> T:
        """Runs something in the proxy's thread, where all of its state is kept."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_END_SECONDS)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=512)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._cut()
        for visit in self._visits:
            visit.cancel()  # whoever waits in `hold`
        await asyncio.gather(*self._visits, return_exceptions=True)

    def _cut(self) -> int:
        links = len(self._clients)
        for writer in (*self._clients, *self._servers):
            _reset(writer)
        self._clients.clear()
        self._servers.clear()
        self.counts.cut += links
        return links

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts.accepted += 1
        visit = self._loop.create_task(self._visit(reader, writer))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        away: asyncio.StreamWriter | None = None
        self._clients.add(writer)
        try:
            await self._flowing.wait()
            there, away = await asyncio.open_connection(*self._target)
            self._servers.add(away)
            link = self.link()
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._up(reader, away, link))
                pumps.create_task(self._down(there, writer, link))
        except* OSError:
            self.counts.unreachable += away is None
        finally:
            self._clients.discard(writer)
            writer.transport.abort()
            if away is not None:
                self._servers.discard(away)
                away.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
        while (data := await self._read(reader)) is not None:
            passed = link.upstream(data)
            self.counts.upstream += len(passed)
            await _write(writer, passed)
        _end(writer)

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
        while (data := await self._read(reader)) is not None:
            passed = link.downstream(data)
            if passed is None:
                self.counts.cut += 1
                # Both pumps end by it, and with them the server's side.
                raise ConnectionAbortedError
            self.counts.downstream += len(passed)
            await _write(writer, passed)
        _end(writer)

    async def _read(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next bytes; None at the end of the connection, which does not pass while the proxy holds either."""
        data = b""
        with contextlib.suppress(OSError):
            data = await reader.read(_CHUNK)
        await self._flowing.wait()
        return data or None


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    # A side that is gone is noticed by reading from it.
    with contextlib.suppress(OSError):
        writer.write(data)
        await writer.drain()


def _end(writer: asyncio.StreamWriter) -> None:
    """Passes on that the other side has ended."""
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection as a broken one ends: what waits to be sent is lost."""
    made: Any = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
