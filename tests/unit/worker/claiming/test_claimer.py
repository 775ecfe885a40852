"""Free slots are shared out among queues: by weight, from turn to turn, and nobody saves turns up."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rowcall.queue.marks import FRONT_EVERY, FRONT_SHARE, FRONTIER
from rowcall.queue.sweeps import Horizon
from rowcall_worker.claiming.claimer import FEW, Claimer, Source, share_out
from rowcall_worker.claiming.shares import Share
from rowcall_worker.running.slots import Cap, Slots
from tests.support.waiting import until


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


class Slow:
    """A queue whose claims from the front take long, beside the dead entries that a snapshot keeps there."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails
        self.claims: list[tuple[bool, int]] = []
        """Of each claim, whether it began at the front, and for how many jobs it was."""
        self.under_way = 0
        """How many that began there have no answer yet."""

    async def claim(
        self, _worker: object, _queue: object, _methods: object, limit: int, *, start: Sequence[int]
    ) -> list[Any]:
        front = set(start) == {0}
        self.claims.append((front, limit))
        if front:
            self.under_way += 1
            await asyncio.sleep(0.1 if self.fails else 2.0)
            self.under_way -= 1
            if self.fails:
                raise TimeoutError
        return []


class Idle:
    """What a claimer waits for before a claim, all of it there."""

    worker_id = None
    wanted = False

    @property
    def usable(self) -> Any:
        return self._get

    async def _get(self) -> Any:
        return SimpleNamespace(worker_id=None, usable=True, hold=lambda _: None, let_go=lambda _: None)

    async def room(self) -> None: ...

    async def opened(self) -> None: ...

    async def start(self, *_: object) -> list[Any]:
        return []

    def failed(self, *_: object) -> None: ...


def claimer(queue: Slow) -> tuple[Claimer, Source]:
    """With twenty slots and one queue."""
    idle: Any = Idle()
    made = Claimer(
        cast("Any", queue), idle, idle, idle, idle,
        shard="a", method_ids=[1], slots=Slots(20), horizon=Horizon(), longest_pause=0.05,
    )  # fmt: skip
    made.look_at({1: Share(1.0, None)}, ())
    return made, made._sources[1]


async def test_a_claim_from_the_front_that_fails_is_not_made_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long snapshot may keep more dead entries at the front than a claim has time for."""
    monkeypatch.setattr("rowcall.queue.marks.GIVEN_UP", 0.05)
    queue = Slow(fails=True)
    made, looked_at = claimer(queue)
    made.start()
    await until(lambda: len(queue.claims) >= 4)
    await made.stop()
    assert [front for front, _ in queue.claims[:4]] == [True, False, False, False]
    scan = looked_at.mark.scan(time.monotonic())
    assert set(scan.start) == {FRONTIER}, "it has no mark yet"
    # It may have been that the database was away.
    assert looked_at.mark.next_sweep() > time.monotonic() + 2 * FRONT_EVERY
    made.hinted_all()
    assert looked_at.mark.next_sweep() <= time.monotonic() + FRONT_EVERY


async def test_what_comes_during_a_long_claim_is_claimed_by_another() -> None:
    queue = Slow(fails=False)
    made, looked_at = claimer(queue)
    # The last one from the front took a second, and the next one is due.
    then = time.monotonic() - 2 / FRONT_SHARE
    looked_at.mark.claimed(looked_at.mark.scan(then), [(3, 7)], limit=10, began=then, ended=then + 1)
    made.start()
    await until(lambda: len(queue.claims) >= 3)
    assert queue.under_way == 1, "it was not waited for"
    await made.stop()
    assert queue.claims[0] == (True, FEW)
    assert not any(front for front, _ in queue.claims[1:]), "one such at a time"
