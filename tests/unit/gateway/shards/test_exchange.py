"""Turns are exchanged the less often the longer it takes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rowcall.queue.tally import Tally
from rowcall_gateway.shards import upkeep
from rowcall_gateway.shards.upkeep import Upkeep


class Slow:
    """A store whose exchange takes a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.exchanges = 0

    async def exchange_turns(self) -> int:
        self.exchanges += 1
        await asyncio.sleep(self.seconds)
        return 0


async def exchanges(seconds: float) -> int:
    """How many there are in half a second, of those that take so long."""
    store = Slow(seconds)
    work = Upkeep(
        cast("Any", SimpleNamespace(shard="a", checked=True)), cast("Any", store), [], [], Tally(lambda _: None)
    )
    task = asyncio.create_task(work._exchange())
    await asyncio.sleep(0.5)
    task.cancel()
    return store.exchanges


async def test_an_exchange_that_takes_long_comes_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "EXCHANGE_EVERY", 0.01)
    assert await exchanges(0.0) >= 3
    # The next one is a second off.
    assert await exchanges(0.03) == 1
