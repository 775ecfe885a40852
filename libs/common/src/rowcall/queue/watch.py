"""Watching a connection's socket while libpq is used directly. Called by `prepared` and `hints`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from psycopg.pq.abc import PGconn

_LOOK_EVERY: Final = 0.1
"""Seconds between looks at a socket of which the loop has said nothing. Of a connection that was reset, libuv tells nobody
who only waits to read: it stops watching. (psycopg looks as often.)"""


class Watch:
    """Sends what is to be sent, and tells when there is something to be read."""

    def __init__(self, pgconn: PGconn, readable: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """
        Args:
            pgconn: The connection. Nobody else may wait for it.
            readable: Called when there may be something to read, and now and then; it reads what there is.
            failed: Called when that raised, or when sending did. The watch is over then.
        """
        self._pgconn = pgconn
        self._readable = readable
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._socket: int | None = None
        self._sending = False
        self._looking: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Starts, in the running event loop. Raises psycopg.Error."""
        # What is larger than the socket's buffer goes out as the server takes it, while what it says meanwhile is read.
        unsent = self._pgconn.flush() != 0
        self._socket = self._pgconn.socket
        self._loop.add_reader(self._socket, self._read)
        if unsent:
            self._sending = True
            self._loop.add_writer(self._socket, self._send)
        self._looking = self._loop.call_later(_LOOK_EVERY, self._look)

    def stop(self) -> None:
        """Ends it; does nothing if it is over.

        To be called before anything else can open a socket, where libpq may have closed this one: that one may have the
        same number, and would no longer be watched then.
        """
        socket, self._socket = self._socket, None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if socket is not None:
            self._loop.remove_reader(socket)
            if self._sending:
                self._sending = False
                self._loop.remove_writer(socket)

    def _read(self) -> None:
        try:
            self._readable()
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self.stop()
            self._failed(error)

    def _send(self) -> None:
        try:
            if self._pgconn.flush() == 0 and self._socket is not None:
                self._sending = False
                self._loop.remove_writer(self._socket)
        except Exception as error:  # noqa: BLE001 - as above
            self.stop()
            self._failed(error)

    def _look(self) -> None:
        self._looking = None
        if self._sending:
            self._send()
        if self._socket is not None:
            self._read()
        if self._socket is not None:
            self._looking = self._loop.call_later(_LOOK_EVERY, self._look)
