"""The gate of a process that runs one job alone: shut for one at a time, opened in time for ordinary work."""

from __future__ import annotations

import asyncio
import time

import pytest

from rowcall_worker.claiming.solitude import Solitude
from rowcall_worker.running.slots import Slots
from tests.support.waiting import until


def gate(*capacities: int) -> tuple[Solitude, list[Slots]]:
    """A gate over slots of these capacities."""
    slots = [Slots(capacity) for capacity in capacities]
    return Solitude(slots), slots


def state(solitude: Solitude) -> tuple[bool, bool]:
    """Whether it is idle, and whether the gate is shut."""
    return solitude.idle, solitude.wanted


async def test_a_process_is_idle_when_no_slot_of_any_kind_is_taken() -> None:
    solitude, (tasks, threads) = gate(4, 2)
    assert state(solitude) == (True, False)
    for slots in (tasks, threads):
        slots.take(1)
        assert state(solitude) == (False, False)
        assert not await solitude.quiet(0.01)
        slots.give(1)
    assert await solitude.quiet(0.01)


async def test_quiet_comes_when_the_last_attempt_of_all_kinds_has_ended() -> None:
    solitude, (tasks, threads) = gate(4, 2)
    tasks.take(2)
    threads.take(1)
    waiting = asyncio.create_task(solitude.quiet(20))
    for slots in (tasks, threads, tasks):
        await asyncio.sleep(0)
        assert not waiting.done()
        slots.give(1)
    assert await waiting


async def test_a_busy_process_is_shut_only_where_that_is_asked_for() -> None:
    solitude, (tasks,) = gate(4)
    tasks.take(1)
    async with solitude.shut(busy=False) as shut:
        assert (shut, state(solitude)) == (False, (False, False))
    async with solitude.shut(busy=True) as shut:
        assert (shut, state(solitude)) == (True, (False, True))
    assert state(solitude) == (False, False)


async def test_ordinary_work_has_as_long_as_the_gate_was_shut() -> None:
    solitude, (tasks,) = gate(4)
    tasks.take(1)
    began = time.monotonic()
    async with solitude.shut(busy=True):
        await solitude.quiet(0.2)
    rested_at = 2 * time.monotonic() - began
    async with solitude.shut(busy=True) as shut:
        assert not shut
    # Where there is none, nothing is waited for.
    tasks.give(1)
    async with solitude.shut(busy=False) as shut:
        assert shut
    tasks.take(1)
    await until(lambda: solitude.rested)
    assert time.monotonic() >= rested_at - 0.01
    async with solitude.shut(busy=True) as shut:
        assert shut


async def test_claims_wait_for_the_gate_and_shards_for_their_turn() -> None:
    solitude, (tasks,) = gate(4)
    order: list[str] = []

    async def claim() -> None:
        await solitude.opened()
        order.append("claim")
        tasks.take(1)

    async def other_shard() -> None:
        async with solitude.shut(busy=False) as shut:
            order.append(f"other {shut}")

    async with solitude.shut(busy=False):
        claiming, other = asyncio.create_task(claim()), asyncio.create_task(other_shard())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(claiming, other)
    # Ordinary work that waited comes before the next shard's suspects.
    assert order == ["claim", "other False"]


async def test_the_gate_opens_whatever_happens() -> None:
    solitude, _ = gate(4)
    with pytest.raises(RuntimeError):
        async with solitude.shut(busy=False):
            raise RuntimeError
    assert not solitude.wanted


async def test_handlers_that_were_given_up_are_told_apart_from_those_that_run() -> None:
    solitude, (tasks,) = gate(4)
    tasks.take(1)
    tasks.stick()
    assert (solitude.idle, solitude.stuck) == (True, True)
    tasks.take(1)
    assert state(solitude) == (False, False)
    tasks.give(1)
    tasks.unstick()
    tasks.give(1)
    assert (solitude.idle, solitude.stuck, tasks.free) == (True, False, 4)
