"""Whether an idle connection to Postgres is still there. Used by the pools and by whoever takes a connection from one."""

from __future__ import annotations

import select
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
