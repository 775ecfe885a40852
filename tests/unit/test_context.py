"""The call that code belongs to: it follows the work, and never leaks into another's."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest

from rowcall.context import CallContext, bind, current
from rowcall.tracing import TraceContext


def call(tenant: str) -> CallContext:
    return CallContext(tenant, "ada", "r-1", TraceContext.mint())


def test_is_there_within_the_block_only() -> None:
    outer, inner = call("outer"), call("inner")
    assert current() is None
    with bind(outer) as bound:
        assert bound is outer
        with bind(inner):
            assert current() is inner
        assert current() is outer
    assert current() is None


def test_is_gone_after_an_error() -> None:
    def fail() -> None:
        with bind(call("a")):
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert current() is None


def test_a_binding_is_entered_once() -> None:
    binding = bind(call("a"))
    with binding, pytest.raises(RuntimeError, match="in use"), binding:
        pass
    assert current() is None
    with binding:
        assert current() is not None


async def test_follows_to_thread() -> None:
    mine = call("a")
    with bind(mine):
        assert await asyncio.to_thread(current) is mine


async def test_follows_an_executor_through_copy_context() -> None:
    mine = call("a")
    with ThreadPoolExecutor(1) as executor:
        loop = asyncio.get_running_loop()
        with bind(mine):
            assert await loop.run_in_executor(executor, contextvars.copy_context().run, current) is mine
            # Without it an executor's thread has none: that is why the worker copies.
            assert await loop.run_in_executor(executor, current) is None
        assert await loop.run_in_executor(executor, current) is None


async def test_follows_child_tasks() -> None:
    mine = call("a")

    async def child() -> CallContext | None:
        await asyncio.sleep(0)
        return current()

    with bind(mine):
        task = asyncio.create_task(child())
        async with asyncio.TaskGroup() as group:
            grandchild = group.create_task(asyncio.wait_for(child(), 5))
        gathered = await asyncio.gather(child(), child())
    # The task was given the call when it was made; that the block has ended does not take it away.
    assert await task is mine
    assert grandchild.result() is mine
    assert list(gathered) == [mine, mine]
    assert current() is None


async def test_callbacks_of_the_loop_have_it() -> None:
    mine = call("a")
    seen: asyncio.Future[CallContext | None] = asyncio.get_running_loop().create_future()
    with bind(mine):
        asyncio.get_running_loop().call_soon(lambda: seen.set_result(current()))
    assert await seen is mine


async def test_calls_side_by_side_do_not_mix() -> None:
    calls = [call(f"tenant-{number}") for number in range(50)]
    together = asyncio.Barrier(len(calls))

    async def one(mine: CallContext) -> bool:
        with bind(mine):
            await together.wait()
            before = current() is mine
            in_thread = await asyncio.to_thread(current) is mine
            return before and in_thread and current() is mine

    assert all(await asyncio.gather(*(one(mine) for mine in calls)))
