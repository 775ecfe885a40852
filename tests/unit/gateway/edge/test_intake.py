"""What is asked of gRPC's core for calls: how much beforehand, kept from whoever cancels, and handed on in order."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from rowcall_gateway.edge import intake
from rowcall_gateway.edge.intake import AHEAD, Intake


class Ended(Exception):
    """No call comes any more."""


class Core:
    """What is asked for, until it is answered."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[str]] = []

    async def request(self) -> str:
        """Asks for a call."""
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    def send(self, *calls: str) -> None:
        """Calls come, in the order in which they were asked for."""
        for call in calls:
            self.asked.pop(0).set_result(call)


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    """One that was asked for nothing yet; it lets go of what it was asked for, as a server that stops."""
    core = Core()
    yield core
    for future in core.asked:
        if not future.done():
            future.set_exception(Ended)
    await asyncio.sleep(0)


@pytest.fixture
async def calls(core: Core) -> Intake:
    """What has asked it for nothing yet, outside of any task: so that it does not end with the fixture's."""
    found: asyncio.Future[Intake] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: found.set_result(Intake(core.request)))
    return await found


async def taken(calls: Intake) -> str:
    """The next call, as gRPC's task awaits it."""
    (done,), _ = await asyncio.wait({calls.next()})
    return str(done.result())


async def test_so_many_are_asked_for_and_as_many_more_as_are_taken(core: Core, calls: Intake) -> None:
    waiting = asyncio.ensure_future(taken(calls))
    await asyncio.sleep(0)
    assert len(core.asked) == AHEAD
    core.send(*"abc")
    assert await waiting == "a"
    # Two that have come and are not taken are no room for two more.
    assert len(core.asked) == AHEAD - 3
    assert [await taken(calls) for _ in range(2)] == ["b", "c"]
    assert len(core.asked) == AHEAD - 1


async def test_what_has_come_is_taken_in_one_round(core: Core, calls: Intake) -> None:
    waiting = asyncio.ensure_future(taken(calls))
    await asyncio.sleep(0)
    core.send(*map(str, range(50)))
    assert await waiting == "0"
    rounds = 0

    def count() -> None:
        nonlocal rounds
        rounds += 1
        asyncio.get_running_loop().call_soon(count)

    count()
    assert [await taken(calls) for _ in range(49)] == list(map(str, range(1, 50)))
    assert rounds == 1


async def test_what_was_asked_for_is_cancelled_by_nobody(core: Core, calls: Intake) -> None:
    waiting = asyncio.ensure_future(taken(calls))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not any(future.cancelled() for future in core.asked)
    core.send("a")
    assert await taken(calls) == "a", "which came for the one that was cancelled"


async def test_what_was_asked_for_outlives_who_asked() -> None:
    """The core writes there, whoever is gone."""
    core = Core()
    before = len(intake._kept)
    _ = Intake(core.request).next()
    asked = list(core.asked)
    gc.collect()
    assert len(intake._kept) == before + AHEAD
    for future in asked:
        future.set_result("")
    await asyncio.sleep(0)
    assert len(intake._kept) == before


async def test_what_ends_without_a_call_is_told_who_takes_them_in(core: Core, calls: Intake) -> None:
    following = calls.next()
    for future in core.asked:
        future.set_exception(Ended)
    with pytest.raises(Ended):
        await following
    await calls.close()


async def test_a_stop_waits_for_who_came_too_late(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    async def tell(call: str, _: object) -> None:
        await asyncio.sleep(0.01)
        told.append(call)

    monkeypatch.setattr(intake, "_refuse", tell)
    taking = asyncio.ensure_future(taken_by_a_task(core))
    late = await taking
    for future in core.asked:
        future.set_exception(Ended)
    await late.close()
    assert told == ["b", "c"], "a was begun with"


async def taken_by_a_task(core: Core) -> Intake:
    """What is left when the task that takes calls in has ended after the first of three."""
    calls = Intake(core.request)
    following = calls.next()
    core.send("a", "b")
    assert await following == "a"
    core.send("c")
    await asyncio.sleep(0)
    return calls


async def test_a_question_that_is_not_taken_is_raised(core: Core) -> None:
    class Refused(Exception):
        """As gRPC raises it of a question."""

    async def request() -> str:
        raise Refused

    with pytest.raises(Refused):
        _ = Intake(request).next()


async def test_a_question_that_awaits_otherwise_goes_on_in_a_task() -> None:
    class Bare:
        """Awaits no future."""

        def __await__(self) -> Generator[Any, Any, str]:
            yield
            yield
            return "a"

    async def request() -> str:
        return await Bare()

    with pytest.raises(intake._Otherwise) as found:
        _ = Intake(request).next()
    assert await asyncio.ensure_future(intake._gone_on(found.value.asking, found.value.awaited)) == "a"
    intake._kept.discard(found.value.asking)
