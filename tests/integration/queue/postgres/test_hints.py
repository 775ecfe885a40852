"""Hints reach listeners, soon and not too many of them, and come back after the connection was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from rowcall.queue.postgres import hints
from rowcall.queue.postgres.hints import (
    CANCEL_CHANNEL,
    READY_CHANNEL,
    PostgresListener,
    PostgresNotifier,
    done_channel,
    parse_cancel,
    parse_done,
    parse_ready,
)
from tests.fix_cluster import Cluster, RestartableCluster
from tests.support.gate import Gate
from tests.support.waiting import until

pytestmark = pytest.mark.hinted("hints themselves are tested")


class Heard:
    """What a listener heard."""

    def __init__(self) -> None:
        self.hints: list[tuple[str, str]] = []
        self.connections = 0

    def hint(self, channel: str, payload: str) -> None:
        self.hints.append((channel, payload))

    def connected(self) -> None:
        self.connections += 1


@asynccontextmanager
async def listening(
    dsn: str, *channels: str, callback: Callable[[str, str], None] | None = None
) -> AsyncIterator[Heard]:
    heard = Heard()
    listener = PostgresListener(dsn, channels, callback or heard.hint, connected=heard.connected)
    listener.start()
    await until(lambda: heard.connections == 1)
    yield heard
    await listener.close()


@pytest.fixture
async def notifier(cluster: Cluster) -> AsyncIterator[PostgresNotifier]:
    notifier = PostgresNotifier(cluster.shards["a"], interval=timedelta(milliseconds=20))
    notifier.start()
    yield notifier
    await notifier.close()


async def test_hints_say_which_queues_and_which_jobs(cluster: Cluster, notifier: PostgresNotifier) -> None:
    gateway, jobs = uuid4(), [uuid4() for _ in range(3)]
    async with listening(cluster.shards["a"], READY_CHANNEL, done_channel(gateway)) as heard:
        notifier.ready([7, 11])
        notifier.done(gateway, jobs)
        notifier.done(uuid4(), [uuid4()])
        await until(lambda: len(heard.hints) == 2)
    said = dict(heard.hints)
    assert parse_ready(said[READY_CHANNEL]) == [7, 11]
    assert parse_done(said[done_channel(gateway)]) == jobs


async def test_workers_are_told_of_cancellations_together(cluster: Cluster, notifier: PostgresNotifier) -> None:
    workers = [uuid4() for _ in range(300)]
    async with listening(cluster.shards["a"], CANCEL_CHANNEL) as heard:
        for _ in range(2):
            notifier.cancel(workers)
        await until(lambda: len(heard.hints) == 2)
        await until_quiet(cluster, heard)
    assert sorted(each for _, payload in heard.hints[:2] for each in parse_cancel(payload)) == sorted(workers)
    assert len(heard.hints) == 3


async def test_what_waits_is_sent_before_the_end(cluster: Cluster) -> None:
    # The second hint waits for its interval: as the last results of a worker that drains.
    async with listening(cluster.shards["a"], READY_CHANNEL) as heard:
        made = PostgresNotifier(cluster.shards["a"], interval=timedelta(milliseconds=50))
        made.start()
        made.ready([1])
        await until(lambda: heard.hints == [(READY_CHANNEL, "1")])
        made.ready([2])
        await made.close()
        await until(lambda: heard.hints == [(READY_CHANNEL, "1"), (READY_CHANNEL, "2")])


async def test_the_end_waits_for_no_database_that_is_away(cluster: Cluster) -> None:
    gate = Gate(cluster.shards["a"])
    await gate.open()
    await gate.shut()
    made = PostgresNotifier(gate.dsn)
    made.start()
    made.ready([1])
    async with asyncio.timeout(10):
        await made.close()


async def test_many_ids_are_sent_in_payloads_that_postgres_takes(cluster: Cluster, notifier: PostgresNotifier) -> None:
    gateway, jobs = uuid4(), [uuid4() for _ in range(1000)]
    async with listening(cluster.shards["a"], done_channel(gateway)) as heard:
        notifier.done(gateway, jobs)
        said: list[UUID] = []
        await until(lambda: sum(len(parse_done(payload)) for _, payload in heard.hints) == 1000)
        for _, payload in heard.hints:
            assert len(payload) < 8000
            said += parse_done(payload)
    assert said == jobs


async def test_the_first_hint_goes_at_once_and_the_rest_together(cluster: Cluster) -> None:
    notifier = PostgresNotifier(cluster.shards["a"], interval=timedelta(milliseconds=300))
    notifier.start()
    async with listening(cluster.shards["a"], READY_CHANNEL) as heard:
        notifier.ready([1])
        await until(lambda: bool(heard.hints))
        sent = asyncio.get_running_loop().time()
        for queue_id in range(2, 50):
            notifier.ready([queue_id])
            await asyncio.sleep(0.001)
        await until(lambda: len(heard.hints) == 2)
        assert asyncio.get_running_loop().time() - sent >= 0.25
    assert heard.hints[0] == (READY_CHANNEL, "1")
    assert parse_ready(heard.hints[1][1]) == list(range(2, 50))
    await notifier.close()


async def test_a_lost_connection_is_made_again_and_says_so(cluster: Cluster) -> None:
    async with Gate(cluster.shards["a"]) as gate:
        notifier = PostgresNotifier(gate.dsn)
        notifier.start()
        async with listening(gate.dsn, READY_CHANNEL) as heard:
            notifier.ready([1])
            await until(lambda: len(heard.hints) == 1)
            await gate.shut()
            for queue_id in range(100):
                notifier.ready([queue_id])
                notifier.done(uuid4(), [uuid4()])
            await gate.open()
            await until(lambda: heard.connections == 2)
            # What was said meanwhile may be lost. From now on hints come again.
            await until_heard(notifier, heard, 4711)
        await notifier.close()


async def until_heard(notifier: PostgresNotifier, heard: Heard, queue_id: int) -> None:
    async with asyncio.timeout(20):
        while not any(queue_id in parse_ready(payload) for _, payload in heard.hints):
            notifier.ready([queue_id])
            await asyncio.sleep(0.05)


async def test_hints_that_cannot_be_sent_do_not_pile_up(cluster: Cluster) -> None:
    gateway = uuid4()
    notifier = PostgresNotifier(cluster.shards["a"])  # not started: as if the database were away
    for _ in range(1000):
        notifier.done(gateway, [uuid4() for _ in range(100)])
    async with listening(cluster.shards["a"], done_channel(gateway)) as heard:
        notifier.start()
        await until(lambda: bool(heard.hints))
        await until_quiet(cluster, heard)
    assert sum(len(parse_done(payload)) for _, payload in heard.hints) <= 20_100
    await notifier.close()


async def until_quiet(cluster: Cluster, heard: Heard) -> None:
    """One statement has sent them all; a hint behind them has been heard."""
    async with await psycopg.AsyncConnection.connect(cluster.shards["a"], autocommit=True) as connection:
        channel = heard.hints[0][0]
        await connection.execute("select pg_notify(%s, '')", [channel])
    await until(lambda: heard.hints[-1][1] == "")


async def test_a_callback_that_fails_does_not_end_listening(cluster: Cluster, notifier: PostgresNotifier) -> None:
    heard: list[str] = []

    def fail_once(channel: str, payload: str) -> None:
        heard.append(payload)
        if len(heard) == 1:
            raise RuntimeError("broken")

    async with listening(cluster.shards["a"], READY_CHANNEL, callback=fail_once):
        notifier.ready([1])
        await until(lambda: len(heard) == 1)
        notifier.ready([2])
        await until(lambda: heard == ["1", "2"])


async def test_a_database_that_is_not_there_is_no_error(cluster: Cluster) -> None:
    """Hints are only hints: whoever starts them while the database is away goes on without."""
    gate = Gate(cluster.shards["a"])
    await gate.open()
    await gate.shut()
    heard = Heard()
    listener = PostgresListener(gate.dsn, [READY_CHANNEL], heard.hint, connected=heard.connected)
    notifier = PostgresNotifier(gate.dsn)
    listener.start()
    notifier.start()
    notifier.ready([1])
    await gate.open()
    await until(lambda: heard.connections == 1, seconds=20)
    await until_heard(notifier, heard, 5)
    await listener.close()
    await notifier.close()
    await notifier.close()
    await gate.shut()


async def sessions(admin: psycopg.AsyncConnection[tuple[object, ...]]) -> int:
    """How many sessions there are of listeners and notifiers."""
    count = "select count(*) from pg_stat_activity where application_name in ('rowcall listener', 'rowcall notifier')"
    row = await (await admin.execute(count.encode())).fetchone()
    assert row is not None
    return int(str(row[0]))


async def test_no_listener_and_no_notifier_stays_with_a_server_that_takes_no_writes_any_more(
    restartable_cluster: RestartableCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work goes on elsewhere then, and nothing would be heard of it."""
    monkeypatch.setattr(hints, "_LOOK_EVERY", 0.05)
    dsn = restartable_cluster.shards["a"]
    notifier = PostgresNotifier(dsn)
    notifier.start()
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin,
        listening(dsn, READY_CHANNEL) as heard,
    ):
        await admin.execute("alter system set default_transaction_read_only = on")
        await admin.execute("select pg_reload_conf()")

        async def gone() -> bool:
            notifier.ready([1])
            return await sessions(admin) == 0

        await until(gone)
        await admin.execute("set default_transaction_read_only = off")
        await admin.execute("alter system reset default_transaction_read_only")
        await admin.execute("select pg_reload_conf()")

        def told() -> bool:
            notifier.ready([2])
            return heard.connections > 1 and (READY_CHANNEL, "2") in heard.hints

        await until(told)
    await notifier.close()


async def test_looking_at_the_session_costs_no_hint(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_LOOK_EVERY", 0.001)
    async with (
        await psycopg.AsyncConnection.connect(cluster.shards["a"], autocommit=True) as sender,
        listening(cluster.shards["a"], READY_CHANNEL) as heard,
    ):
        for number in range(300):
            await sender.execute("select pg_notify(%s, %s)", [READY_CHANNEL, str(number)])
        await until(lambda: len(heard.hints) == 300)
        assert [payload for _, payload in heard.hints] == [str(number) for number in range(300)]
