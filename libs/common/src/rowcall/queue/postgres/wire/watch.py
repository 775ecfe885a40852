"""Watching a connection's socket while libpq is used directly. Called by `prepared` and `hints`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from psycopg.pq.abc import PGconn

_LOOK_EVERY: Final = 0.1
"""Seconds between looks at a socket of which the loop has said nothing. Of a connection that was reset, libuv tells nobody
who only waits to read: it stops watching. (psycopg looks as often.)"""


def _forget(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    loop.remove_reader(descriptor)
    os.close(descriptor)


class Watch:
    """Sends what is to be sent on one connection, and tells when there is something to be read.

    The loop goes on watching between two uses: to begin and to end that costs ten system calls, and a short statement no
    more than two. It watches a descriptor of its own for the same socket: libpq closes its descriptor whenever it wants,
    the next one that is opened has the same number, and a loop that still knows that one would not watch the new one.
    """

    def __init__(self, pgconn: PGconn) -> None:
        """To be made in the event loop.

        Args:
            pgconn: The connection. While the watch is in use, nobody else may wait for it.
        """
        self._descriptor: int | None = None
        self._pgconn = pgconn
        self.loop = asyncio.get_running_loop()
        self._readable: Callable[[], None] | None = None
        self._failed: Callable[[Exception], None] | None = None
        self._sending = False
        self._looking: asyncio.TimerHandle | None = None

    def start(self, readable: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """Starts.

        Args:
            readable: Called when there may be something to read, and now and then; it reads what there is.
            failed: Called when that raised, or when sending did. The watch is closed then.

        Raises:
            psycopg.Error: What is to be sent cannot be.
        """
        # What is larger than the socket's buffer goes out as the server takes it, while what it says meanwhile is read.
        unsent = self._pgconn.flush() != 0
        if self._descriptor is None:
            self._descriptor = os.dup(self._pgconn.socket)
            self.loop.add_reader(self._descriptor, self._read)
        self._readable = readable
        self._failed = failed
        if unsent:
            self._sending = True
            self.loop.add_writer(self._descriptor, self._send)
        self._looking = self.loop.call_later(_LOOK_EVERY, self._look)

    def stop(self) -> None:
        """Ends this use; does nothing if it is over."""
        self._readable = self._failed = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._stop_sending()

    def close(self) -> None:
        """Stops, and has the loop watch no longer. A later use begins anew."""
        self.stop()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self.loop.remove_reader(descriptor)
            os.close(descriptor)

    def __del__(self) -> None:
        # The loop has ended before the server had closed its end, or libuv has stopped watching a connection that was reset
        # while its last answer was read: nobody else holds this then. uvloop keeps the dead watcher under the descriptor's
        # number, and refuses whoever opens the next one under it (RuntimeError), until it is told to forget it.
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # By the loop, in its own thread: the collector runs in whichever allocates, a lease's for one, and libuv ends the
            # process when a descriptor is taken from it while it polls. Open until then: nobody else gets the number.
            try:
                self.loop.call_soon_threadsafe(_forget, self.loop, descriptor)
            except RuntimeError:  # the loop is closed
                os.close(descriptor)

    def _stop_sending(self) -> None:
        if self._sending and self._descriptor is not None:
            self._sending = False
            self.loop.remove_writer(self._descriptor)

    def _read(self) -> None:
        if self._readable is None:
            # The server has closed the connection, or somebody else uses it: it is theirs to read, and to close.
            self.close()
            return
        try:
            self._readable()
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._fail(error)

    def _send(self) -> None:
        try:
            if self._pgconn.flush() == 0:
                self._stop_sending()
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        failed = self._failed
        self.close()
        if failed is not None:
            failed(error)

    def _look(self) -> None:
        self._looking = None
        if self._sending:
            self._send()
        if self._readable is not None:
            self._read()
        if self._readable is not None:
            self._looking = self.loop.call_later(_LOOK_EVERY, self._look)
