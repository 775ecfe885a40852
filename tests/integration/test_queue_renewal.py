"""A worker's lease, renewed from a thread of its own."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from rowcall.errors import RowcallError
from rowcall.queue.renewal import LeaseRenewal
from tests.fix_queue import Queue
from tests.gate import Gate

LEASE = timedelta(minutes=2)


async def test_a_renewal_puts_the_end_of_the_lease_off(queue: Queue) -> None:
    worker = await queue.worker(lease=timedelta(seconds=5))
    renewal = LeaseRenewal(queue.logins.worker, worker, LEASE, shard="a", prepare=queue.logins.access.prepares)
    assert (await asyncio.to_thread(renewal.renew)).alive
    left = await queue.value("select lease_until - clock_timestamp() from rowcall.worker where worker_id = %s", worker)
    assert timedelta(minutes=1) < left <= LEASE
    await asyncio.to_thread(renewal.close)


async def test_the_dead_and_the_unknown_cannot_renew(queue: Queue) -> None:
    worker = await queue.worker()
    await queue.work.retire_worker(worker)
    for each in (worker, uuid4()):
        renewal = LeaseRenewal(queue.logins.worker, each, LEASE, shard="a", prepare=queue.logins.access.prepares)
        assert not (await asyncio.to_thread(renewal.renew)).alive
        await asyncio.to_thread(renewal.close)


async def test_a_database_that_is_away_is_an_error_and_connected_to_again(queue: Queue) -> None:
    worker = await queue.worker()
    async with Gate(queue.logins.worker) as gate:
        renewal = LeaseRenewal(gate.dsn, worker, LEASE, shard="a", prepare=queue.logins.access.prepares)
        assert (await asyncio.to_thread(renewal.renew)).alive
        await gate.shut()
        for _ in range(2):
            with pytest.raises(RowcallError, match="SHARD_UNAVAILABLE"):
                await asyncio.to_thread(renewal.renew)
        await gate.open()
        assert (await asyncio.to_thread(renewal.renew)).alive
        await asyncio.to_thread(renewal.close)
