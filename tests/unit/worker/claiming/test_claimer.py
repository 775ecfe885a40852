"""Free slots are shared out among queues: by weight, from turn to turn, and nobody saves turns up."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from rowcall.queue.marks import FRONT_EVERY, FRONTIER, Begin
from rowcall.queue.protocol import WorkQueue
from rowcall.queue.sweeps import Horizon
from rowcall_worker.claiming.claimer import Claimer, Source, share_out
from rowcall_worker.claiming.shares import Share
from rowcall_worker.running.slots import Cap


def source(number: int, weight: float = 1.0, cap: int | None = None, turn: float = 0.0) -> Source:
    """A queue as a claimer has it."""
    made = Source(number, Share(weight, None if cap is None else Cap(cap)), Horizon(), 1.0)
    made.turn = turn
    return made


def parts(free: int, *sources: Source, now: float = 0.0) -> dict[int, int]:
    """How many slots each queue gets."""
    return {each.queue_id: part for each, part in share_out(free, sources, now)}


def test_slots_are_shared_by_weight() -> None:
    assert parts(8, source(1), source(2, 3)) == {1: 2, 2: 6}
    assert parts(9, source(1), source(2), source(3)) == {1: 3, 2: 3, 3: 3}
    assert parts(200, source(1)) == {1: 200}
    assert parts(0, source(1), source(2)) == {}
    assert parts(5) == {}


def test_what_a_queue_may_not_have_is_for_the_others() -> None:
    assert parts(10, source(1, 3, cap=2), source(2)) == {1: 2, 2: 8}
    assert parts(10, source(1, cap=2), source(2, cap=3)) == {1: 2, 2: 3}


def test_whoever_had_the_least_for_its_weight_comes_first() -> None:
    assert list(parts(3, source(1, turn=5), source(2, turn=3), source(3, turn=4))) == [2, 3]
    # One slot at a time, over a while.
    queues = [source(1, 1), source(2, 3), source(3, 0.5)]
    got: Counter[int] = Counter()
    now = 0.0
    for _ in range(900):
        ((first, part),) = share_out(1, queues, now)
        now = max(first.turn, now)
        first.turn = now + part / first.share.weight
        got[first.queue_id] += part
    assert (got[1], got[2], got[3]) == (200, 600, 100)


def test_a_queue_that_had_no_work_has_no_more_than_its_share_afterwards() -> None:
    idle, busy = source(1, turn=0), source(2, turn=1000)
    assert parts(10, idle, busy, now=1000) == {1: 5, 2: 5}
    assert math.isinf(idle.share.room)


@pytest.mark.parametrize("ask", [Source.hinted, Source.woken])
def test_who_asks_while_a_claim_is_under_way_gets_another_at_once(ask: Callable[[Source], None]) -> None:
    looked_at = source(1)
    # From the front: the next such look is some seconds off.
    looked_at.mark.claimed(looked_at.mark.scan(100.0), [], limit=10, began=100.0, ended=100.0)
    looked_at.looking()
    # What he wrote may be too late for that claim.
    ask(looked_at)
    looked_at.found(0, 10, now=100.0)
    assert looked_at.due_at == 100.0
    # The next one sees it, and that nothing else is there.
    looked_at.looking()
    looked_at.found(1, 10, now=100.0)
    assert looked_at.due_at > 100.0


class Silent:
    """A queue whose claims get no answer in time."""

    async def claim(self, *_: object, **__: object) -> NoReturn:
        await asyncio.sleep(0.1)
        raise TimeoutError


async def test_a_claim_from_the_front_that_fails_is_not_made_again_at_once() -> None:
    """A long snapshot may keep more dead entries at the front than a claim has time for."""
    nothing: Any = None
    claimer = Claimer(
        cast("WorkQueue", Silent()), nothing, nothing, nothing, nothing,
        shard="a", method_ids=[1], slots=nothing, horizon=Horizon(), longest_pause=1.0,
    )  # fmt: skip
    claimer.look_at({1: Share(1.0, None)}, ())
    [looked_at] = claimer._sources.values()
    with pytest.raises(TimeoutError):
        await claimer._fetch(cast("Any", SimpleNamespace(worker_id=None)), looked_at, 10)
    now = time.monotonic()
    scan = looked_at.mark.scan(now)
    assert set(scan.begins) == {Begin.MARK}
    assert set(scan.start) == {FRONTIER}, "it has no mark yet"
    assert looked_at.mark.next_sweep() > now + 2 * FRONT_EVERY
    # It may have been that the database was away.
    claimer.hinted_all()
    assert looked_at.mark.next_sweep() <= now + FRONT_EVERY
