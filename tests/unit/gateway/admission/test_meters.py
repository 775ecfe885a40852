"""A meter: what it lets in of its share, what becomes of that without the shard, and what it tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from rowcall.bounds import Bound, Budget, BudgetPeriod, Target
from rowcall.queue.model import NOBODY_NEEDS, Need, OthersNeed, QueueLoad, Spending
from rowcall_gateway.admission.meters import IDLE, LEASE, LONGEST, SHORTEST, Measure, Meter
from rowcall_gateway.admission.passes import Pass

NOW = 1000.0
ACME = Target("acme")


def bound(target: Target = ACME, **measures: Any) -> Bound:
    given: dict[str, Any] = dict.fromkeys(("rate", "in_flight", "waiters", "backlog", "oldest_age")) | measures
    return Bound(target, **given, number=1, updated_at=datetime.now(UTC), actor=None, note=None)


def meter(target: Target = ACME, others: int = 0, **measures: Any) -> Meter:
    return Meter(bound(target, **measures), target, NOW, others)


def let_in(found: Meter, now: float, calls: int, jobs: int = 1, *, waits: bool = False) -> int:
    """How many of so many calls come in."""
    count = 0
    for _ in range(calls):
        measure = found.refuses(now, jobs, waits=waits)
        if measure is None:
            found.take(now, jobs, waits=waits)
            count += 1
        else:
            found.turned_away(measure, jobs)
    return count


def renew(found: Meter, others: OthersNeed, now: float) -> Need:
    need = found.need(now)
    found.lease(need, others, now)
    return need


def test_a_rate_lets_in_a_seconds_worth_at_once_and_then_so_many_a_second() -> None:
    found = meter(rate=10)
    assert let_in(found, NOW, 100) == 10
    assert found.refuses(NOW, 1, waits=False) is Measure.RATE
    assert let_in(found, NOW + 0.5, 100) == 5
    assert let_in(found, NOW + 2, 100) == 10, "a pause saves no more than a second's worth"


def test_a_batch_counts_by_its_jobs_and_a_large_one_is_worked_off() -> None:
    found = meter(rate=10)
    assert let_in(found, NOW, 1, jobs=25) == 1, "it is more than a second's worth, and would never come in otherwise"
    assert let_in(found, NOW + 1, 1) == 0, "what it was more is still owed"
    assert let_in(found, NOW + 2, 100) in {4, 5}


def test_a_rate_below_one_lets_one_in_and_a_rate_of_none_none() -> None:
    slow = meter(rate=0.5)
    assert let_in(slow, NOW, 5) == 1
    assert let_in(slow, NOW + 2, 5) == 1
    assert let_in(meter(rate=0), NOW + 5, 5) == 0


def test_places_are_given_back() -> None:
    found = meter(in_flight=3, waiters=2)
    assert let_in(found, NOW, 5, waits=True) == 2
    assert found.refuses(NOW, 1, waits=True) is Measure.WAITERS
    assert let_in(found, NOW, 5) == 1, "one that does not wait"
    assert found.refuses(NOW, 1, waits=False) is Measure.IN_FLIGHT
    found.give(waits=True)
    assert let_in(found, NOW, 5, waits=True) == 1


def test_a_bound_that_nothing_is_let_in_by_lets_nothing_in() -> None:
    assert let_in(meter(in_flight=0), NOW, 5) == 0
    assert let_in(meter(waiters=0), NOW, 5, waits=True) == 0


def test_what_others_need_is_theirs() -> None:
    found = meter(rate=100, in_flight=10)
    let_in(found, NOW, 100)
    renew(found, OthersNeed(1, 300.0, 4, 40, 0, 0), NOW + 1)
    # 100 asked here, 300 there: a quarter each second.
    assert let_in(found, NOW + 2, 1000) == 0, "ten are in flight, and others have four"
    for _ in range(10):
        found.give(waits=False)
    count = 0
    for _ in range(1000):
        if let_in(found, NOW + 2, 1):
            found.give(waits=False)
            count += 1
    assert count == pytest.approx(25, abs=1)


def test_a_gateway_that_is_new_begins_with_its_part() -> None:
    """The others have not heard of it: a second's share of each is what the bound may be passed by."""
    assert let_in(meter(rate=100, others=3), NOW, 1000) == 25
    assert let_in(meter(in_flight=100, others=3), NOW, 1000) == 25


def test_one_that_is_new_keeps_to_its_part_until_the_others_had_time_to_tell() -> None:
    found = meter(in_flight=100, others=3)
    let_in(found, NOW, 1000)
    found.lease(found.need(NOW + 1), NOBODY_NEEDS, NOW + 1, 3)
    assert let_in(found, NOW + 1, 1000) == 0
    found.lease(found.need(NOW + 2.1), NOBODY_NEEDS, NOW + 2.1, 3)
    assert let_in(found, NOW + 2.1, 1000) == 75, "nobody else is asked for it"


def test_a_share_that_cannot_be_renewed_is_halved_once() -> None:
    found = meter(rate=100, in_flight=100)
    renew(found, NOBODY_NEEDS, NOW)
    late = NOW + LEASE + 0.1
    assert found.refuses(late, 1, waits=False) is None
    found.take(late, 1, waits=False)
    assert let_in(found, late, 1000) == 49
    for _ in range(50):
        found.give(waits=False)
    assert let_in(found, late + 60, 1000) == 50, "half, and not half of it again"
    for _ in range(50):
        found.give(waits=False)
    renew(found, NOBODY_NEEDS, late + 61)
    assert let_in(found, late + 63, 1000) == 100


def test_it_tells_what_it_was_asked_not_what_it_let_in() -> None:
    found = meter(rate=10, in_flight=20)
    let_in(found, NOW, 100)
    need = renew(found, NOBODY_NEEDS, NOW + 1)
    assert need.rate == pytest.approx(100)
    assert (need.in_flight, need.in_flight_wanted) == (10, 10), "the rate refused them first"
    assert let_in(found, NOW + 1, 10) == 10
    assert let_in(found, NOW + 2, 7) == 0
    need = renew(found, NOBODY_NEEDS, NOW + 2)
    assert (need.in_flight, need.in_flight_wanted) == (20, 27)
    assert found.need(NOW + 3).in_flight_wanted == 20, "once told, they are told"


def test_a_queue_that_is_overfull_lets_nothing_in_until_it_is_not() -> None:
    queue = Target("", "documents")
    found = meter(queue, backlog=100, oldest_age=timedelta(seconds=60))
    assert found.looks
    assert let_in(found, NOW, 5) == 5, "nothing is known of it yet"
    found.loaded(QueueLoad(97, timedelta(seconds=1)))
    assert let_in(found, NOW, 10) == 3, "what comes meanwhile counts"
    assert found.refuses(NOW, 1, waits=False) is Measure.BACKLOG
    found.loaded(QueueLoad(0, timedelta(seconds=61)))
    assert found.refuses(NOW, 1, waits=False) is Measure.OLDEST_AGE
    found.loaded(QueueLoad(0, None))
    assert let_in(found, NOW, 5) == 5
    found.loaded(None)
    assert let_in(found, NOW, 5) == 5, "a queue that could not be looked at keeps nobody out"


def test_another_bound_holds_at_once_and_what_is_in_flight_counts_on() -> None:
    found = meter(in_flight=5)
    assert let_in(found, NOW, 9) == 5
    found.set(bound(in_flight=8), NOW)
    assert let_in(found, NOW, 9) == 3
    found.set(bound(in_flight=2), NOW)
    assert let_in(found, NOW, 9) == 0


@pytest.mark.parametrize("asked", [1, 10, 1000, 100_000])
def test_whoever_is_refused_is_told_to_call_again_in_time(asked: int) -> None:
    found = meter(rate=50, in_flight=10_000)
    let_in(found, NOW, asked)
    assert SHORTEST <= found.wait(Measure.RATE, 1) <= LONGEST
    assert LONGEST * 1.25 <= 3


def test_one_that_nobody_asks_is_idle_but_not_while_calls_are_in_flight() -> None:
    found = meter(in_flight=5)
    let_in(found, NOW, 1)
    assert not found.idle(NOW)
    assert not found.idle(NOW + IDLE + 1)
    found.give(waits=False)
    assert not found.idle(NOW + IDLE - 1)
    assert found.idle(NOW + IDLE + 1)


BUDGET = Budget(Decimal(10), "EUR", BudgetPeriod.DAY)


def spent(amount: str, left: float = 3600) -> Spending:
    return Spending(Decimal(amount), timedelta(seconds=left))


def test_a_budget_keeps_out_who_has_spent_it_until_its_period_is_over() -> None:
    found = meter(budget=BUDGET, in_flight=100)
    found.told(spent("9.99"), NOW)
    assert let_in(found, NOW, 3) == 3
    found.told(spent("10"), NOW)
    assert found.most == 0, "whoever comes next is not let in by a glance"
    assert found.refuses(NOW, 1, waits=False) is Measure.BUDGET
    assert found.refuses(NOW + 3599, 1, waits=False) is Measure.BUDGET
    assert found.period_left(NOW + 600) == 3000
    assert found.refuses(NOW + 3600, 1, waits=False) is None, "it is another period, whoever has looked"
    found.told(spent("0"), NOW + 3601)
    assert let_in(found, NOW + 3601, 3) == 3
    assert found.in_flight == 6, "what was let in stays"


def test_what_nobody_has_told_of_a_budget_keeps_nobody_out_but_is_asked_first() -> None:
    found = meter(budget=BUDGET)
    assert (found.unseen, found.most) == (True, 0)
    assert found.refuses(NOW, 5, waits=False) is None
    found.told(spent("10", 0), NOW)
    assert found.refuses(NOW, 5, waits=False) is None, "taken for spent because it could not be had"


def test_another_budget_is_looked_at_anew() -> None:
    found = meter(budget=BUDGET)
    found.told(spent("10"), NOW)
    found.set(bound(budget=BUDGET._replace(amount=Decimal(20))), NOW)
    assert found.unseen
    found.told(spent("10"), NOW)
    assert found.refuses(NOW, 1, waits=False) is None
    found.set(bound(rate=5.0), NOW)
    assert (found.unseen, found.looks) == (False, False)


def test_a_rate_of_nothing_lets_nothing_in_however_late_its_share_is_renewed() -> None:
    found = meter(rate=0.0)
    at_a_glance = Pass([found], waits=False)
    for later in (0, 0.5, 5, 60):
        assert not at_a_glance.enter(NOW + later)
        assert found.refuses(NOW + later, 1, waits=False) is Measure.RATE
        assert found.until(NOW + later, 1) == float("inf"), "nobody waits in line for it"
