"""How many jobs of each queue a worker says that it could run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from rowcall_worker.claiming.shares import QueueChoice, Shares
from rowcall_worker.running.slots import Slots
from rowcall_worker.upkeep.room import Room
from tests.support.waiting import until

QUEUES = {1: "default", 2: "late", 3: "of others"}


class Shard:
    """Knows what gateways have published."""

    def __init__(self, **published: str) -> None:
        self.methods = published

    async def published(self) -> Mapping[str, str]:
        return self.methods


async def told(shard: Shard, places: Mapping[str, Slots], *choices: str) -> dict[int, int]:
    """What is told once the shard was asked."""
    shares = Shares([QueueChoice.parse(choice) for choice in choices])
    room = Room(cast("Any", shard), shard="a", queues=lambda: QUEUES, share_of=shares.of)
    assert room.slots() == {}, "nothing is known yet"
    room.start(places)
    try:
        await until(lambda: bool(room.slots()))
        return room.slots()
    finally:
        await room.stop()


async def test_a_queue_has_the_slots_of_its_methods_each_kind_once() -> None:
    coroutines, threads = Slots(20), Slots(4)
    shard = Shard(Print="default", Scan="default", Fax="default", Bind="late", Sell="of others")
    places = {"Print": coroutines, "Scan": coroutines, "Fax": threads, "Bind": threads, "New": coroutines}
    assert await told(shard, places) == {1: 24, 2: 4}


async def test_a_queue_has_no_more_than_it_was_given_and_none_where_it_is_not_claimed_from() -> None:
    slots = Slots(20)
    shard = Shard(Print="default", Bind="late")
    assert await told(shard, {"Print": slots, "Bind": slots}, "default=1:7") == {1: 7}


async def test_slots_that_are_stuck_are_of_no_use() -> None:
    slots = Slots(20)
    slots.take(20)
    slots.stick()
    assert await told(Shard(Print="default"), {"Print": slots}) == {1: 19}
