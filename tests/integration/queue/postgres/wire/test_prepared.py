"""The queue's statements as they go over the wire: whatever is sent arrives, and a connection outlives what fails on it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from rowcall.queue.postgres.statements import statement
from rowcall.queue.postgres.wire import prepared
from rowcall.queue.postgres.wire.prepared import Behind
from tests.fix_pooler import PASSWORD
from tests.fix_queue import Logins, PostgresQueue
from tests.support.waiting import until

UNTOLD = dict.fromkeys(("host", "release", "version", "slots", "threads", "apart", "up"))
"""What a worker need not say of itself."""


@pytest.fixture
async def connection(logins: Logins) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A worker's, which may wait for a lock for long; straight to the server, where a session is one."""
    async with await psycopg.AsyncConnection.connect(straight(logins), autocommit=True) as found:
        yield found


def straight(logins: Logins) -> str:
    """A worker's connection string."""
    return make_conninfo(logins.admin, user="test_worker", password=PASSWORD)


async def prepared_here(connection: psycopg.AsyncConnection[Any]) -> set[bytes]:
    """The texts of what the session has prepared."""
    cursor = await connection.execute("select statement from pg_prepared_statements", prepare=False)
    return {text.encode() async for (text,) in cursor}


async def test_a_statement_is_prepared_once(connection: psycopg.AsyncConnection[Any]) -> None:
    for _ in range(3):
        assert await prepared.run(connection, "policies") == await prepared.run(connection, "policies")
    assert await prepared_here(connection) == {statement("policies")}


async def test_parameters_of_another_type_are_another_statement(connection: psycopg.AsyncConnection[Any]) -> None:
    """psycopg sends a number in two bytes, four or eight, as it needs."""
    for limit in (1, 100_000, 2):
        assert await prepared.run(connection, "age_jobs", {"limit": limit, "front": True}) == []
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        await prepared.run(connection, "age_jobs", {"limit": 3_000_000_000, "front": True})
    cursor = await connection.execute("select parameter_types::text from pg_prepared_statements", prepare=False)
    assert sorted([types async for (types,) in cursor]) == [
        "{bigint,boolean}",
        "{integer,boolean}",
        "{smallint,boolean}",
    ]


async def test_what_is_larger_than_every_buffer_arrives(queue: PostgresQueue) -> None:
    """In both directions at once: the server sends while it is still being sent to."""
    calls = [queue.call(request=bytes([number]) * 1_000_000) for number in range(30)]
    await queue.submit(*calls)
    names = [("acme", call.job_id) for call in calls]
    found = await queue.store.read(names, request=True)
    assert {row.job_id: row.request for row in found.values()} == {call.job_id: call.request for call in calls}


async def test_an_error_is_psycopgs_own_and_the_connection_goes_on(connection: psycopg.AsyncConnection[Any]) -> None:
    nobody = {"worker_id": None, "name": "w", "lease": timedelta(0), **UNTOLD}
    with pytest.raises(psycopg.errors.NotNullViolation, match="worker_id") as raised:
        await prepared.run(connection, "register_worker", nobody)
    assert raised.value.diag.column_name == "worker_id"
    assert await prepared.run(connection, "policies") == []


async def test_a_statement_that_cannot_be_prepared_is_tried_again_the_next_time(queue: PostgresQueue) -> None:
    await queue.admin.execute("alter function rowcall.queues() rename to elsewhere")
    async with await psycopg.AsyncConnection.connect(straight(queue.logins), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.UndefinedFunction):
            await prepared.run(connection, "queues")
        await queue.admin.execute("alter function rowcall.elsewhere() rename to queues")
        assert len(await prepared.run(connection, "queues")) == 1


@asynccontextmanager
async def waiting(
    queue: PostgresQueue, connection: psycopg.AsyncConnection[Any]
) -> AsyncIterator[tuple[asyncio.Task[list[TupleRow]], psycopg.AsyncConnection[Any]]]:
    """A statement on the connection that waits for a lock, and the session that has the lock."""
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as lock:
        await lock.execute("lock table rowcall.policy in access exclusive mode")
        run = asyncio.create_task(prepared.run(connection, "policies"))
        await queue.somebody_waits()
        yield run, lock


async def test_a_cancelled_statement_is_cancelled_in_the_server_too(
    queue: PostgresQueue, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with waiting(queue, connection) as (run, lock):
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert await prepared.run(connection, "queues")
        await lock.rollback()
        assert await prepared.run(connection, "policies")


async def test_a_server_that_ends_the_session_is_an_operational_error(
    queue: PostgresQueue, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with waiting(queue, connection) as (run, _):
        await queue.admin.execute("select pg_terminate_backend(%s)", [connection.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            await run
        assert connection.closed
        with pytest.raises(psycopg.OperationalError):
            await prepared.run(connection, "policies")


async def test_two_that_share_a_connection_take_turns(connection: psycopg.AsyncConnection[Any]) -> None:
    found = await asyncio.gather(*(prepared.run(connection, name) for name in ("queues", "policies") * 5))
    assert found == [await prepared.run(connection, name) for name in ("queues", "policies") * 5]


async def test_a_socket_of_which_the_loop_says_nothing_is_looked_at(
    connection: psycopg.AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvloop says nothing when a server that was killed resets the connection."""
    # Before its first statement: it is watched from then on.
    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", lambda *_: None)
    async with asyncio.timeout(20):
        assert await prepared.run(connection, "policies") == []


DESCRIPTORS = Path("/proc/self/fd")


def descriptors(socket: Path) -> int:
    """How many descriptors of a socket the process has; of a name as "socket:[4711]"."""
    found = 0
    for each in DESCRIPTORS.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another thread's, closed meanwhile
            found += each.readlink() == socket
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("by", ["us", "the server"])
async def test_a_connection_that_is_closed_leaves_no_descriptor(
    connection: psycopg.AsyncConnection[Any], queue: PostgresQueue, by: str
) -> None:
    await prepared.run(connection, "policies")
    socket = (DESCRIPTORS / str(connection.fileno())).readlink()
    assert descriptors(socket) == 2
    if by == "the server":
        await queue.admin.execute("select pg_terminate_backend(%s)", [connection.info.backend_pid])
        await until(lambda: descriptors(socket) == 1)
    await connection.close()
    await until(lambda: descriptors(socket) == 0)


async def test_what_psycopg_does_itself_in_between_is_in_nobodys_way(connection: psycopg.AsyncConnection[Any]) -> None:
    for _ in range(3):
        assert await prepared.run(connection, "policies") == []
        cursor = await connection.execute("select generate_series(1, 10000)")
        assert len(await cursor.fetchall()) == 10000
    async with connection.transaction():
        assert await prepared.run(connection, "policies") == []


async def test_a_statement_behind_another_runs_though_that_one_is_refused(
    queue: PostgresQueue, connection: psycopg.AsyncConnection[Any]
) -> None:
    """Both transactions are their own."""
    names = "select count(*) from rowcall.worker where name = 'behind'"
    nobody = {"worker_id": None, "name": "w", "lease": timedelta(0), **UNTOLD}
    worker = {"worker_id": uuid4(), "name": "behind", "lease": timedelta(seconds=1), **UNTOLD}
    with pytest.raises(psycopg.errors.NotNullViolation):
        await prepared.run(connection, "register_worker", nobody, behind=Behind("register_worker", worker))
    rest = prepared.rest(connection)
    assert rest is not None
    assert await rest
    assert await queue.value(names) == 1
    # The same again is refused, and the one before it stands.
    found = await prepared.run(connection, "policies", behind=Behind("register_worker", nobody))
    assert found == await after(connection)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert prepared.rest(connection) is None


async def after(connection: psycopg.AsyncConnection[Any]) -> list[TupleRow]:
    """The policies, when the statement behind the last one has been refused."""
    rest = prepared.rest(connection)
    assert rest is not None
    assert not await rest
    return await prepared.run(connection, "policies")


async def test_a_session_that_ends_ends_the_statement_behind_another_too(
    queue: PostgresQueue, connection: psycopg.AsyncConnection[Any]
) -> None:
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as lock:
        await lock.execute("lock table rowcall.policy in access exclusive mode")
        assert await prepared.run(connection, "queues", behind=Behind("policies", {}))
        rest = prepared.rest(connection)
        assert rest is not None
        await queue.somebody_waits()
        await queue.admin.execute("select pg_terminate_backend(%s)", [connection.info.backend_pid])
        assert not await rest
        assert connection.closed
