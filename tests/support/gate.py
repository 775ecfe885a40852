"""A TCP gate before a server: a test shuts it (as if the server were down) or freezes it (as if it hung), and opens it
again. Connection strings that lead through it stay the same."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.ports import free_port
from tests.support.waiting import until


class Gate:
    """Forwards a port of its own to one database server."""

    def __init__(self, dsn: str) -> None:
        target = conninfo_to_dict(dsn)
        self._dsn = dsn
        self._target = (str(target["host"]), int(str(target["port"])))
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._visits: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._held = b""
        self._is_shut = True
        # Nobody else's while it is shut.
        self._port = free_port()

    @property
    def dsn(self) -> str:
        """The connection string, by way of the gate."""
        return make_conninfo(self._dsn, host="127.0.0.1", port=self._port)

    async def open(self) -> None:
        """Lets everybody through, again."""
        self._flowing.set()
        if self._server is None:
            self._is_shut = False
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def shut(self) -> None:
        """Refuses new connections and breaks those that are there."""
        self._is_shut = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        self._flowing.set()  # whoever waits in the frozen gate finds its connection gone
        await asyncio.gather(*self._visits)

    def freeze(self) -> None:
        """Takes connections and bytes, and passes on nothing of what the clients send.

        What the server owes for what it was sent before still comes back: a hint behind a statement that is answered
        already would otherwise keep its connection or not, as the race goes.
        """
        self._held = b""
        self._flowing.clear()

    async def holds(self, *texts: bytes) -> None:
        """Waits until a client has sent one of these to the frozen gate; they send other things too, unasked."""
        await until(lambda: any(text in self._held for text in texts))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shut()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_shut:  # it came just before
            writer.transport.abort()
            return
        self._writers.add(writer)
        visit = asyncio.create_task(self._pass(reader, writer))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        try:
            there, away = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
        else:
            self._writers.add(away)
            await asyncio.gather(self._pump(reader, away, self._flowing), self._pump(there, writer))
            self._writers.discard(away)
        self._writers.discard(writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event | None = None
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                if flowing is not None and not flowing.is_set():
                    self._held += chunk
                    await flowing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()
