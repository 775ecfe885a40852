"""What every implementation of the queue keeps to: turns between gateways.

Two that flood for one tenant share its turn, a new one goes on where others were.
"""

from __future__ import annotations

import pytest

from rowcall.queue.model import ORDER_STRIDE
from rowcall.queue.protocol import JobStore
from tests.support.queues import Queue


async def flood(queue: Queue, store: JobStore, jobs: int, tenant: str = "acme") -> list[float]:
    """Submits jobs of one tenant as one gateway does; their order keys, in strides."""
    submitted = await queue.submit(*(queue.call(tenant) for _ in range(jobs)), store=store)
    keys = {job.job_id: job.order_key for job in await queue.probe.jobs()}
    return [keys[each.job_id] / ORDER_STRIDE for each in submitted]


async def test_two_gateways_that_flood_for_one_tenant_share_its_turn_after_an_exchange(queue: Queue) -> None:
    async with queue.another() as one, queue.another() as two:
        first, second = one.store, two.store
        assert await flood(queue, first, 100) == list(range(1, 101))
        assert await flood(queue, second, 10) == list(range(1, 11)), "it has not heard of the first yet"

        assert (await first.exchange_turns(), await second.exchange_turns()) == (1, 1)

        assert await flood(queue, second, 10) == list(range(101, 111))
        assert await flood(queue, first, 1) == [101], "nor the first of what the second did since"
        assert (await second.exchange_turns(), await first.exchange_turns()) == (1, 1)
        assert await flood(queue, first, 1) == [111]


async def test_a_gateway_that_starts_again_goes_on_behind_what_it_has_submitted(queue: Queue) -> None:
    async with queue.another() as gateway:
        store = gateway.store
        await flood(queue, store, 100)
        await flood(queue, store, 3, "bolt")
        await store.exchange_turns()
    async with queue.another() as gateway:
        store = gateway.store
        assert await flood(queue, store, 2) == [101, 102]
        assert await flood(queue, store, 1, "bolt") == [4]


async def test_only_flows_that_moved_are_told(queue: Queue) -> None:
    async with queue.another() as gateway:
        store = gateway.store
        await flood(queue, store, 2)
        await flood(queue, store, 1, "bolt")
        assert await store.exchange_turns() == 2
        assert await store.exchange_turns() == 0
        await flood(queue, store, 1)
        assert await store.exchange_turns() == 1


async def test_a_tenant_of_weight_three_moves_by_a_third(queue: Queue) -> None:
    assert await queue.operators.weigh("acme", 3)
    async with queue.another() as gateway:
        store = gateway.store
        heavy, light = await flood(queue, store, 6), await flood(queue, store, 2, "bolt")

        assert heavy == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2], abs=1e-5)
        assert light == [1, 2]
        await store.exchange_turns()
    async with queue.another() as gateway:
        store = gateway.store
        assert await flood(queue, store, 1) == pytest.approx([7 / 3], abs=1e-5)
