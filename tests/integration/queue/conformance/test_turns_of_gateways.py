"""Turns between gateways: two stores that flood for one tenant share its turn, a new one goes on where others were."""

from __future__ import annotations

import pytest

from rowcall.errors import RowcallError
from rowcall.queue.model import ORDER_STRIDE
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.fix_queue import Queue, opened, taken


async def flood(queue: Queue, store: PostgresJobStore, jobs: int, tenant: str = "acme") -> list[float]:
    """Submits jobs of one tenant as one gateway does; their order keys, in strides."""
    submitted = [taken(answer) for answer in await store.submit([queue.call(tenant) for _ in range(jobs)])]
    query = "select order_key from rowcall.job where job_id = %s"
    return [await queue.value(query, each.job_id) / ORDER_STRIDE for each in submitted]


async def test_two_gateways_that_flood_for_one_tenant_share_its_turn_after_an_exchange(queue: Queue) -> None:
    async with opened(queue.logins) as (first, _), opened(queue.logins) as (second, _):
        assert await flood(queue, first, 100) == list(range(1, 101))
        assert await flood(queue, second, 10) == list(range(1, 11)), "it has not heard of the first yet"

        assert (await first.exchange_turns(), await second.exchange_turns()) == (1, 1)

        assert await flood(queue, second, 10) == list(range(101, 111))
        assert await flood(queue, first, 1) == [101], "nor the first of what the second did since"
        assert (await second.exchange_turns(), await first.exchange_turns()) == (1, 1)
        assert await flood(queue, first, 1) == [111]


async def test_a_gateway_that_starts_again_goes_on_behind_what_it_has_submitted(queue: Queue) -> None:
    async with opened(queue.logins) as (store, _):
        await flood(queue, store, 100)
        await flood(queue, store, 3, "bolt")
        await store.exchange_turns()
    async with opened(queue.logins) as (store, _):
        assert await flood(queue, store, 2) == [101, 102]
        assert await flood(queue, store, 1, "bolt") == [4]


async def test_only_flows_that_moved_are_told(queue: Queue) -> None:
    async with opened(queue.logins) as (store, _):
        await flood(queue, store, 2)
        await flood(queue, store, 1, "bolt")
        assert await store.exchange_turns() == 2
        assert await store.exchange_turns() == 0
        await flood(queue, store, 1)
        assert await store.exchange_turns() == 1


async def test_what_could_not_be_told_is_told_the_next_time(queue: Queue) -> None:
    async with opened(queue.logins) as (store, _):
        await flood(queue, store, 5)
        await queue.admin.execute("alter function rowcall.exchange_turns rename to elsewhere")
        with pytest.raises(RowcallError) as error:
            await store.exchange_turns()
        await queue.admin.execute("alter function rowcall.elsewhere rename to exchange_turns")

        assert error.value.reason == ErrorReason.ERROR_REASON_SCHEMA_MISMATCH
        assert await store.exchange_turns() == 1
    assert await queue.value("select last_key from rowcall.turn where tenant = 'acme'") == 5 * ORDER_STRIDE


async def test_a_tenant_of_weight_three_moves_by_a_third(queue: Queue) -> None:
    await queue.admin.execute("select rowcall.weigh_tenant('acme', 3)")
    async with opened(queue.logins) as (store, _):
        heavy, light = await flood(queue, store, 6), await flood(queue, store, 2, "bolt")

        assert heavy == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2], abs=1e-5)
        assert light == [1, 2]
        await store.exchange_turns()
    async with opened(queue.logins) as (store, _):
        assert await flood(queue, store, 1) == pytest.approx([7 / 3], abs=1e-5)
