"""Whether an idle connection to Postgres is still there, and giving up one that is not idle.

Used by the pools and by whoever takes a connection from one.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool


async def is_alive(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether an idle connection is still there; the server is asked only if the socket has something to say.

    A server that ended or restarted has closed its end: the socket of an idle connection is then readable. To see that
    before a statement is sent spares the caller an answer of "unknown", and costs microseconds, where a round trip at every
    use would double a short read.
    """
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(0):
        return True
    try:
        await AsyncConnectionPool.check_connection(connection)
    except psycopg.Error:
        return False
    return True


def shut(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """Gives a connection up: whoever waits on it finds it lost, and closes it. Does nothing if it is gone already.

    It is not closed here: somebody waits for its descriptor, and the next that is opened would have the same number. Nor is
    the server asked to cancel anything.
    """
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=socket.dup(connection.fileno())) as duplicate,
    ):
        duplicate.shutdown(socket.SHUT_RDWR)
