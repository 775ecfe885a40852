"""Single flight, and waiting no longer than was said."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from rowcall.sharding.bounded import bounded
from rowcall.sharding.flights import Flights


class Lookup:
    def __init__(self) -> None:
        self.begun = 0
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.begun += 1
        return await self.answer


async def test_many_callers_share_one_lookup() -> None:
    flights: Flights[str] = Flights("test")
    lookup = Lookup()
    callers = [asyncio.create_task(flights.join("acme", lookup)) for _ in range(50)]
    await asyncio.sleep(0)
    lookup.answer.set_result("a")
    assert await asyncio.gather(*callers) == ["a"] * 50
    assert lookup.begun == 1
    # The next one looks again: flights are no cache.
    assert await flights.join("acme", lookup) == "a"
    assert lookup.begun == 2


async def test_callers_with_other_keys_do_not_wait_for_each_other() -> None:
    flights: Flights[str] = Flights("test")
    slow, quick = Lookup(), Lookup()
    waiting = asyncio.create_task(flights.join("slow", slow))
    quick.answer.set_result("b")
    assert await flights.join("quick", quick) == "b"
    slow.answer.set_result("a")
    assert await waiting == "a"


async def test_a_failure_is_everybodys_and_does_not_stay() -> None:
    flights: Flights[str] = Flights("test")
    failing, working = Lookup(), Lookup()
    callers = [asyncio.create_task(flights.join("acme", failing)) for _ in range(3)]
    await asyncio.sleep(0)
    failing.answer.set_exception(LookupError("gone"))
    assert [type(answer) for answer in await asyncio.gather(*callers, return_exceptions=True)] == [LookupError] * 3
    working.answer.set_result("a")
    assert await flights.join("acme", working) == "a"


async def test_a_lookup_outlives_the_caller_that_began_it() -> None:
    flights: Flights[str] = Flights("test")
    lookup = Lookup()
    first, second = (asyncio.create_task(flights.join("acme", lookup)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    lookup.answer.set_result("a")
    assert await second == "a"


async def test_closing_ends_what_is_under_way() -> None:
    flights: Flights[str] = Flights("test")
    caller = asyncio.create_task(flights.join("acme", Lookup()))
    await asyncio.sleep(0)
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_work_that_does_not_heed_its_cancellation_is_not_waited_for() -> None:
    released = asyncio.Event()
    ended = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await released.wait()  # as psycopg waits for a server that is frozen
            ended.set()
            raise

    began = monotonic()
    with pytest.raises(TimeoutError):
        await bounded(stubborn(), 0.05)
    assert monotonic() - began < 1
    assert not ended.is_set()
    released.set()
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_caller_that_is_cancelled_is_not_held_either() -> None:
    released = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await released.wait()

    caller = asyncio.create_task(bounded(stubborn(), 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(caller, 5)
    released.set()


async def test_results_and_errors_in_time_are_passed_on() -> None:
    async def work(fail: bool) -> int:
        await asyncio.sleep(0)
        if fail:
            raise LookupError("no")
        return 7

    assert await bounded(work(False), 5) == 7
    with pytest.raises(LookupError, match="no"):
        await bounded(work(True), 5)
