"""The line at a bound: who comes first is served first, nobody goes ahead, and nobody waits who would wait for long."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from rowcall.bounds import Bound, Target
from rowcall.catalogue.model import JobMethod
from rowcall.errors import RowcallError
from rowcall.queue.protocol import AdmissionStore
from rowcall_gateway.admission import lines
from rowcall_gateway.admission.admission import Admission
from rowcall_gateway.admission.lines import LONGEST_LINE, MOST_BYTES, Hall, Line
from rowcall_gateway.admission.meters import Meter
from rowcall_gateway.admission.passes import Pass
from tests.support.waiting import until

ACME = Target("acme")
METHOD = cast("JobMethod", SimpleNamespace(name="acme.v1.Print/Print", policy=SimpleNamespace(queue="documents")))


def bound(target: Target = ACME, number: int = 1, **measures: Any) -> Bound:
    given: dict[str, Any] = dict.fromkeys(("rate", "in_flight", "waiters", "backlog", "oldest_age")) | measures
    return Bound(target, **given, number=number, updated_at=datetime.now(UTC), actor=None, note=None)


class At:
    """A line, and those who stand there by name, as they come in."""

    def __init__(self, hall: Hall | None = None, **measures: Any) -> None:
        self.meter = Meter(bound(**measures), ACME, time.monotonic())
        self.hall = Hall() if hall is None else hall
        self.line = Line(self.meter, self.hall)
        self.came: list[str] = []

    def full(self) -> None:
        """All places are taken."""
        while self.meter.refuses(time.monotonic(), 1, waits=True) is None:
            self.meter.take(time.monotonic(), 1, waits=True)

    def stand(
        self, name: str, *, seconds: float = LONGEST_LINE, jobs: int = 1, size: int = 0, waits: bool = True
    ) -> asyncio.Task[bool]:
        """Whether it came in is the task's result."""

        async def call() -> bool:
            measure = self.meter.refuses(time.monotonic(), jobs, waits=waits)
            came = await self.line.turn(measure, jobs, size, seconds, waits=waits)
            if came:
                self.came.append(name)
            return came

        return asyncio.get_running_loop().create_task(call())

    def end(self, *, waits: bool = True) -> None:
        """A call that is served ends."""
        self.meter.give(waits=waits)
        self.line.serve(time.monotonic())

    async def standing(self, count: int) -> None:
        await until(lambda: len(self.line) == count)


async def until_came(at: At, *names: str) -> None:
    await until(lambda: at.came == list(names))


async def test_whoever_came_first_is_served_first_and_nobody_goes_ahead() -> None:
    at = At(in_flight=2)
    at.full()
    first = at.stand("a")
    await at.standing(1)
    second = at.stand("b")
    await at.standing(2)
    at.meter.ended += 1
    assert not Pass([at.meter], waits=False).enter(time.monotonic()), "there is a place, and somebody who came before"
    at.line.serve(time.monotonic())
    await until_came(at, "a")
    assert at.meter.in_flight == 2, "who has a turn has the place"
    at.end()
    await until_came(at, "a", "b")
    assert (await first, await second) == (True, True)
    assert not at.meter.lined
    at.end()
    assert Pass([at.meter], waits=False).enter(time.monotonic())


async def test_nobody_waits_whose_turn_would_not_come_in_time() -> None:
    at = At(in_flight=2)
    at.full()
    tasks = [at.stand(name, seconds=0.2) for name in "ab"]
    assert await asyncio.wait_for(at.stand("c"), 1) is False, "one behind each place, while nothing is known"
    assert [await task for task in tasks] == [False, False]
    assert not at.meter.lined
    # Nothing ended for as long as is looked at: it is known now that it takes long.
    await asyncio.sleep(max(lines._WINDOW - 0.2, 0) + 0.1)
    began = time.monotonic()
    assert await at.stand("d") is False
    assert time.monotonic() - began < LONGEST_LINE / 2, "at once"
    at.end()
    assert at.meter.refuses(time.monotonic(), 1, waits=True) is None


async def test_a_line_is_as_long_as_what_is_worked_off_in_time() -> None:
    at = At(in_flight=1)
    at.full()
    worker = asyncio.get_running_loop().create_task(_every(0.02, at.end))
    # It is not known how fast it goes before some have gone.
    assert await at.stand("first") is True
    await until(lambda: at.line._paced(time.monotonic()) is not None)
    tasks = [at.stand(str(number)) for number in range(10)]
    assert all([await task for task in tasks])
    assert at.came == ["first", *map(str, range(10))]
    at.full()
    assert await at.stand("hurried", seconds=0.001) is False
    worker.cancel()


async def test_a_rate_has_its_line_too() -> None:
    at = At(rate=20)
    at.full()
    began = time.monotonic()
    tasks = [at.stand(name) for name in "abc"]
    assert all([await task for task in tasks])
    assert at.came == ["a", "b", "c"]
    assert 0.09 < time.monotonic() - began < LONGEST_LINE
    assert await At(rate=0).stand("never") is False
    slow = At(rate=0.01)
    slow.full()
    assert await slow.stand("late") is False


async def test_who_leaves_makes_room_and_who_left_with_a_turn_gives_it_back() -> None:
    at = At(in_flight=1)
    at.full()
    first = at.stand("a")
    await at.standing(1)
    first.cancel()
    await asyncio.wait({first})
    assert not at.meter.lined

    second = at.stand("b")
    await at.standing(1)
    at.end()
    second.cancel()
    await asyncio.wait({second})
    assert second.cancelled()
    assert at.came == []
    assert (at.meter.in_flight, at.meter.waiters, at.hall.calls) == (0, 0, 0), "it had the place by then"


async def test_who_does_not_wait_for_a_job_does_not_wait_behind_those_who_do() -> None:
    at = At(waiters=1)
    at.full()
    waits = at.stand("waits")
    await at.standing(1)
    assert await asyncio.wait_for(at.stand("passes", waits=False), 1) is True
    assert at.came == ["passes"]
    at.end()
    await until_came(at, "passes", "waits")
    assert await waits is True


async def test_what_all_lines_hold_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_CALLS", 3)
    hall = Hall()
    one, other = At(hall, in_flight=4), At(hall, in_flight=4)
    for at in (one, other):
        at.full()
    tasks = [one.stand("a", seconds=0.3), one.stand("b", seconds=0.3), other.stand("c", seconds=0.3)]
    await until(lambda: hall.calls == 3)
    assert await asyncio.wait_for(other.stand("d"), 1) is False
    assert [await task for task in tasks] == [False, False, False]
    assert (hall.calls, hall.size) == (0, 0)

    large = one.stand("large", size=MOST_BYTES, seconds=0.3)
    await until(lambda: hall.calls == 1)
    assert await asyncio.wait_for(other.stand("more", size=1), 1) is False
    assert await large is False


async def test_of_many_callers_each_is_served_as_often_as_the_others() -> None:
    """Ten times as many as there are places: who was just answered is not ahead of who was not."""
    at = At(in_flight=4)
    served: Counter[int] = Counter()
    longest = 0.0
    end = time.monotonic() + 1.5

    async def caller(number: int) -> None:
        nonlocal longest
        gate = Pass([at.meter], waits=True)
        last = time.monotonic()
        while time.monotonic() < end:
            if not gate.enter(time.monotonic()) and not await at.line.turn(
                at.meter.refuses(time.monotonic(), 1, waits=True), 1, 0, LONGEST_LINE, waits=True
            ):
                await asyncio.sleep(0.3)
                continue
            with gate:
                await asyncio.sleep(0.002)
            served[number] += 1
            longest = max(longest, time.monotonic() - last)
            last = time.monotonic()

    await asyncio.gather(*(caller(number) for number in range(40)))
    assert len(served) == 40
    assert longest < 1.0
    counts = sorted(served.values())
    assert counts[0] >= counts[-1] / 3, counts


def admission(*bounds: Bound) -> Admission:
    async def read(number: int) -> list[Bound]:
        return [each for each in bounds if each.number > number]

    made = Admission(read, {"one": cast("AdmissionStore", _Shard())}, lambda _: "one", uuid4())
    made.known._learn(bounds)
    return made


class _Shard:
    async def keep(self, bounds: object) -> None: ...


async def come(found: Admission, *, waits: bool = False, remaining: float | None = None) -> Pass:
    return found.enter("acme", METHOD, waits=waits) or await found.turn(
        "acme", METHOD, waits=waits, size=0, remaining=remaining
    )


async def test_a_turn_at_one_bound_is_given_back_where_another_has_no_place() -> None:
    found = admission(bound(in_flight=1), bound(Target("", "documents"), 2, rate=0.001))
    first = await come(found)
    task = asyncio.get_running_loop().create_task(come(found))
    tenants, queues = (found._meters["", ACME], found._meters["one", Target("", "documents")])
    await until(lambda: tenants.lined or task.done())
    with first:
        pass
    with pytest.raises(RowcallError) as refused:
        await task
    assert refused.value.metadata["measure"] == "rate"
    assert (tenants.in_flight, queues.in_flight, tenants.lined) == (0, 0, False)


async def test_a_call_waits_for_a_part_of_its_time_only() -> None:
    found = admission(bound(in_flight=1))
    await come(found)
    began = time.monotonic()
    with pytest.raises(RowcallError) as refused:
        await come(found, remaining=0.4)
    assert refused.value.metadata["measure"] == "in_flight"
    assert time.monotonic() - began < LONGEST_LINE / 2


async def test_a_batch_stands_in_line_with_the_others() -> None:
    found = admission(bound(rate=10))
    for _ in range(10):
        await come(found)
    batch = await found.turn_of_batch("acme", [METHOD] * 3, size=0, remaining=None)
    (meter,) = batch.meters
    assert meter.in_flight == 11
    with batch:
        pass
    assert meter.in_flight == 10
    with pytest.raises(RowcallError):
        await found.turn_of_batch("acme", [METHOD] * 1000, size=0, remaining=1)


async def test_who_waits_in_line_is_told_of_as_needed() -> None:
    """Callers in a closed loop ask for no more than they are given: where only that was told, a share would stay as it is."""
    at = At(in_flight=2, rate=1000)
    at.full()
    tasks = [at.stand(name, seconds=0.5) for name in "ab"]
    await at.standing(2)
    need = at.meter.need(time.monotonic())
    assert (need.in_flight, need.in_flight_wanted, need.waiters_wanted) == (2, 4, 4)
    assert need.rate >= 2
    await asyncio.gather(*tasks)


async def _every(seconds: float, do: Callable[[], Awaitable[None] | None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        do()
