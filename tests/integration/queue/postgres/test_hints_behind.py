"""Hints that are sent behind the statement that they are for: told when it is committed, and never in its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest

from rowcall.queue.hints import Hint
from rowcall.queue.model import Settlement
from rowcall.queue.postgres import session
from rowcall.queue.postgres.hints import READY_CHANNEL, PostgresListener, behind, done_channel, parse_done, parse_ready
from rowcall.queue.postgres.wire import prepared
from rowcall.queue.postgres.wire.prepared import Behind
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, listening
from tests.fix_queue import PostgresQueue
from tests.fix_worker import Workers
from tests.integration.gateway.shards.test_waiters import NEVER, echo
from tests.support.queues import SUCCEEDED, taken
from tests.support.waiting import until


@pytest.fixture
async def rides(queue: PostgresQueue) -> PostgresQueue:
    """The queue, where its sessions keep prepared statements: others have a notifier send all hints."""
    if not queue.logins.access.prepares:
        pytest.skip("these connections prepare nothing")
    return queue


@asynccontextmanager
async def heard_on(queue: PostgresQueue, channel: str) -> AsyncIterator[list[str]]:
    """The payloads that are heard on a channel."""
    heard: list[str] = []
    connected = asyncio.Event()
    listener = PostgresListener(
        queue.logins.admin, [channel], lambda _channel, payload: heard.append(payload), connected=connected.set
    )
    listener.start()
    await connected.wait()
    yield heard
    await listener.close()


class Stuck(Hint):
    """Waits, where it is sent, for a lock that another session has."""


@pytest.fixture(autouse=True)
def stuck_ones_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(hint: Hint) -> Behind:
        return Behind("shard_facts", {}) if isinstance(hint, Stuck) else behind(hint)

    monkeypatch.setattr(session, "behind", sent)


@asynccontextmanager
async def locked(queue: PostgresQueue) -> AsyncIterator[psycopg.AsyncConnection]:
    """What is `Stuck` waits for this."""
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as lock:
        await lock.execute("lock table rowcall.shard_info in access exclusive mode")
        yield lock


async def test_a_hint_is_heard_when_the_rows_can_be_claimed(rides: PostgresQueue) -> None:
    async with heard_on(rides, READY_CHANNEL) as heard:
        hint = Hint.ready([7, rides.ids.queue_id])
        [answer] = await rides.store.submit([rides.call()], hint)
        taken(answer)
        assert hint.sent
        await until(lambda: bool(heard))
        assert parse_ready(heard[0]) == sorted([7, rides.ids.queue_id])
    assert len(await rides.claim(await rides.worker())) == 1


async def test_a_hint_tells_gateways_of_what_is_settled(rides: PostgresQueue) -> None:
    gateway = uuid4()
    await rides.submit(*[rides.call(waiter_id=gateway) for _ in range(3)])
    jobs = await rides.claim(await rides.worker())
    assert {job.waiter_id for job in jobs} == {gateway}
    async with heard_on(rides, done_channel(gateway)) as heard:
        hint = Hint.done({gateway: [job.job_id for job in jobs]})
        settlements = [Settlement(job.tenant, job.job_id, job.lease, SUCCEEDED, response=b"") for job in jobs]
        assert all(
            not isinstance(each, Exception) and each.settled for each in await rides.work.settle(settlements, hint)
        )
        assert hint.sent
        await until(lambda: bool(heard))
        assert sorted(parse_done(heard[0])) == sorted(job.job_id for job in jobs)


async def test_where_children_come_along_it_is_left_to_a_notifier(rides: PostgresQueue) -> None:
    await rides.submit(rides.call())
    [job] = await rides.claim(await rides.worker())
    hint = Hint.done({uuid4(): [job.job_id]})
    # As when it was sent behind another part of the same batch, before this one.
    hint.sent = True
    child = rides.call(parent_job_id=job.job_id)
    settlement = Settlement(job.tenant, job.job_id, job.lease, SUCCEEDED, response=b"", children=[child])
    await rides.work.settle([settlement], hint)
    assert not hint.sent


async def test_sessions_that_prepare_nothing_leave_it_to_a_notifier(
    rides: PostgresQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "can_follow", lambda _: False)
    hint = Hint.ready([1])
    taken((await rides.store.submit([rides.call()], hint))[0])
    assert not hint.sent


async def test_what_is_refused_is_refused_with_a_hint_behind_it(rides: PostgresQueue) -> None:
    """And each of the halves says for itself whether it was told of."""
    bad = rides.call(labels={"a": "\0"})
    async with heard_on(rides, READY_CHANNEL) as heard:
        hint = Hint.ready([7])
        good, refused = await rides.store.submit([rides.call(), bad], hint)
        taken(good)
        assert isinstance(refused, Exception)
        await until(lambda: bool(heard) or not hint.sent)
    # The connection goes on.
    await rides.submit(rides.call())


async def test_a_hint_that_waits_keeps_nobody(rides: PostgresQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_REST_WITHIN", 3600)
    async with locked(rides) as lock:
        stuck = Stuck()
        taken((await rides.store.submit([rides.call()], stuck))[0])
        assert stuck.sent
        await rides.somebody_waits()
        # One connection at most waits with it; the others go on, and their hints are a notifier's.
        for _ in range(6):
            other = Stuck()
            taken((await rides.store.submit([rides.call()], other))[0])
            assert not other.sent
        closing = asyncio.create_task(rides.store.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        await lock.rollback()
    await closing
    hint = Hint.ready([1])
    taken((await rides.store.submit([rides.call()], hint))[0])
    assert hint.sent


async def test_of_two_at_once_one_is_a_notifiers(rides: PostgresQueue) -> None:
    hints = [Stuck() for _ in range(2)]
    async with locked(rides) as lock:
        answers = await asyncio.gather(*(rides.store.submit([rides.call()], hint) for hint in hints))
        assert [taken(answer) for [answer] in answers]
        assert sorted(hint.sent for hint in hints) == [False, True]
        await lock.rollback()
        await rides.store.close()


async def test_a_hint_that_waits_for_too_long_is_given_up(
    rides: PostgresQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_REST_WITHIN", 0.01)
    async with locked(rides):
        taken((await rides.store.submit([rides.call()], Stuck()))[0])
        await rides.store.close()
        # Where one got stuck others would: for a while they are left to a notifier.
        later = Hint.ready([1])
        taken((await rides.store.submit([rides.call()], later))[0])
        assert not later.sent
    monkeypatch.setattr(session, "_HINTS_AGAIN", 0.0)
    [job] = await rides.claim(await rides.worker(), limit=1)
    settlement = Settlement(job.tenant, job.job_id, job.lease, SUCCEEDED, response=b"")
    async with locked(rides):
        await rides.work.settle([settlement], Stuck())
        await rides.work.close()
    hint = Hint.done({uuid4(): [job.job_id]})
    await rides.work.settle([settlement], hint)
    assert hint.sent


@pytest.mark.hinted("only a hint could tell in time")
async def test_neither_workers_nor_gateways_need_a_notifier(
    gateways: Gateways, cluster: Cluster, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcall_gateway.shards.links.HINTED", NEVER)
    monkeypatch.setattr("rowcall.queue.postgres.hints.PostgresNotifier._want", lambda _: None)
    probe = await gateways.probe(await gateways.start())
    await workers.start(poll=NEVER.first)
    await until(lambda: listening(cluster) == len(cluster.shards))
    for _ in range(3):
        assert (await echo(probe)).payload == b"x"
