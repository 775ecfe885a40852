"""What every implementation of the queue keeps to: what a shard knows of bounds, and what of a backlog it refuses.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from rowcall.bounds import EACH_TENANT, Bound, Budget, BudgetPeriod, Target
from rowcall.catalogue.model import Policy
from rowcall.queue.model import NOBODY_NEEDS, Need, OthersNeed, Submission, SubmitOutcome, Submitted
from rowcall.queue.spend import Spend, SpendKind
from tests.support.queues import METHOD, Queue
from tests.support.waiting import until

CREATED, JOINED, NOT_ADMITTED = SubmitOutcome.CREATED, SubmitOutcome.JOINED, SubmitOutcome.NOT_ADMITTED
SET_AT = datetime(2031, 5, 4, 13, 30, tzinfo=UTC)


def bound(target: Target, number: int = 1, **measures: Any) -> Bound:
    given: dict[str, Any] = dict.fromkeys(("rate", "in_flight", "waiters", "backlog", "oldest_age")) | measures
    return Bound(target, **given, number=number, updated_at=SET_AT, actor="root", note="why")


def need(target: str, rate: float = 0.0, in_flight: int = 0, waiters: int = 0) -> Need:
    return Need(target, rate, in_flight, in_flight + 1, waiters, waiters + 2)


async def outcomes(queue: Queue, *calls: Submission) -> list[SubmitOutcome]:
    answers = await queue.store.submit(calls)
    return [answer.outcome for answer in answers if isinstance(answer, Submitted)]


async def test_bounds_are_kept_whole_and_a_later_one_is_never_overwritten(queue: Queue) -> None:
    """A gateway that the catalogue is away from may know less than the one before."""
    everything = bound(
        Target("acme", "documents"),
        7,
        rate=2.5,
        in_flight=0,
        waiters=3,
        backlog=10**12,
        oldest_age=timedelta(minutes=2),
        budget=Budget(Decimal("250.000000000001"), "EUR", BudgetPeriod.MONTH),
    )
    nothing = bound(Target("", "", METHOD), 8)
    await queue.process.admission.keep([everything, nothing])
    await queue.process.admission.keep([replace(everything, number=6, rate=1.0)])
    assert sorted(await queue.process.admission.kept(), key=lambda each: each.number) == [everything, nothing]
    later = replace(everything, number=9, rate=None)
    async with queue.another() as other:
        await other.admission.keep([later])
    assert {each.target: each for each in await queue.process.admission.kept()}[later.target] == later


async def test_what_was_spent_of_a_budget_is_of_its_tenant_currency_and_period(queue: Queue) -> None:
    await queue.submit(queue.call("acme"), queue.call("acme"), queue.call("bolt"))
    for job in await queue.claim(await queue.worker()):
        costs = [
            Spend(call, SpendKind.PROVIDER, queue.ids.method_id, "maps", cost=Decimal(cost), currency=currency)
            for call, (cost, currency) in enumerate((("1.25", "EUR"), ("0.10", "EUR"), ("7", "USD")), 1)
        ]
        await queue.settle(job, response=b"answer", spend=costs)
    daily, monthly = (Budget(Decimal(10), "EUR", period) for period in BudgetPeriod)
    found = await queue.process.admission.spent(
        [("acme", monthly), ("bolt", daily), ("acme", daily._replace(currency="USD")), ("nobody", daily)]
    )
    assert [each.spent for each in found] == [Decimal("2.7"), Decimal("1.35"), 14, 0]
    for each in found:
        assert timedelta(0) < each.time_left <= timedelta(days=31)
    assert found[1].time_left <= timedelta(days=1)
    assert await queue.process.admission.spent([]) == []


async def test_a_gateway_hears_what_the_others_need_of_the_same(queue: Queue) -> None:
    admission, one, two, three = queue.process.admission, uuid4(), uuid4(), uuid4()
    assert await admission.lease(one, [need("x", 1.5, 2, 3)]) == [NOBODY_NEEDS]
    assert await admission.lease(two, [need("y"), need("x", 10.0, 20, 30)]) == [
        NOBODY_NEEDS, OthersNeed(1, 1.5, 2, 3, 3, 5),
    ]  # fmt: skip
    assert await admission.lease(three, [need("x")]) == [OthersNeed(2, 11.5, 22, 24, 33, 37)]
    assert await admission.lease(one, [need("x", 4.0)]) == [OthersNeed(2, 10.0, 20, 22, 30, 34)], "not itself"
    assert await admission.lease(two, [need("x")]) == [OthersNeed(2, 4.0, 0, 2, 0, 4)], "what it told last"
    await admission.leave(one)
    await admission.leave(three)
    assert await admission.lease(two, [need("x")]) == [NOBODY_NEEDS]


async def test_a_gateway_that_does_not_tell_counts_no_more(queue: Queue) -> None:
    """It keeps half of its share; the others have all by then."""
    admission, dead, alive = queue.process.admission, uuid4(), uuid4()
    await admission.lease(dead, [need("x", 50.0, 5)])
    assert (await admission.lease(alive, [need("x")]))[0].gateways == 1

    async def forgotten() -> bool:
        return await admission.lease(alive, [need("x")]) == [NOBODY_NEEDS]

    await until(forgotten, seconds=10, every=0.2)


async def test_a_tenant_gets_as_many_jobs_into_line_as_its_bound_lets_in(queue: Queue) -> None:
    await queue.process.admission.keep([bound(Target("acme"), backlog=3)])
    assert await outcomes(queue, *(queue.call() for _ in range(5))) == [CREATED] * 3 + [NOT_ADMITTED] * 2
    assert await outcomes(queue, queue.call("bolt"), queue.call()) == [CREATED, NOT_ADMITTED]
    assert await outcomes(queue, queue.call(lane=1)) == [CREATED], "what is full of one priority refuses no other"
    later = queue.call(run_at=datetime.now(UTC) + timedelta(hours=1))
    assert await outcomes(queue, later) == [CREATED], "it is in no line yet"
    worker = await queue.worker()
    assert len(await queue.claim(worker, 3)) == 3
    assert await outcomes(queue, *(queue.call() for _ in range(5))) != [NOT_ADMITTED] * 5, "the line has moved"


async def test_a_tenants_place_in_line_is_known_to_every_gateway(queue: Queue) -> None:
    await queue.process.admission.keep([bound(Target("acme"), backlog=10)])
    await queue.submit(*(queue.call() for _ in range(10)))
    await queue.store.exchange_turns()
    async with queue.another() as other:
        answers = await other.store.submit([queue.call()])
    assert [each.outcome for each in answers if isinstance(each, Submitted)] == [NOT_ADMITTED]


async def test_a_tenants_weight_makes_its_line_no_shorter(queue: Queue) -> None:
    assert await queue.operators.weigh("acme", 4)
    await queue.process.admission.keep([bound(Target("acme"), backlog=8)])
    assert await outcomes(queue, *(queue.call() for _ in range(10))) == [CREATED] * 8 + [NOT_ADMITTED] * 2


async def test_a_tenants_own_bound_stands_in_place_of_each_tenants(queue: Queue) -> None:
    each, own = bound(Target(EACH_TENANT), 1, backlog=2), bound(Target("acme"), 2, backlog=4)
    await queue.process.admission.keep([each, own])
    tenants = ["acme"] * 6 + ["bolt"] * 4
    found = await outcomes(queue, *map(queue.call, tenants))
    assert found == [CREATED] * 4 + [NOT_ADMITTED] * 2 + [CREATED] * 2 + [NOT_ADMITTED] * 2
    await queue.process.admission.keep([replace(own, number=3, backlog=None), replace(each, number=4)])
    assert await outcomes(queue, queue.call()) == [NOT_ADMITTED], "its own was taken away"
    await queue.process.admission.keep([replace(own, number=5, backlog=None, rate=1.0)])
    assert await outcomes(queue, queue.call()) == [CREATED], "its own bounds no backlog"


async def test_a_bound_on_a_queue_of_a_tenants_is_of_no_other_queue(queue: Queue) -> None:
    other = await queue.store.method_ids(METHOD, Policy(queue="other"))
    await queue.process.admission.keep([bound(Target("acme", "other"), backlog=1)])
    found = await outcomes(queue, *(queue.call(ids=ids) for ids in (other, queue.ids) for _ in range(3)))
    assert found == [CREATED] + [NOT_ADMITTED] * 2 + [CREATED] * 3


async def test_a_tenant_has_as_many_jobs_scheduled_as_its_bound_lets_in(queue: Queue) -> None:
    await queue.process.admission.keep([bound(Target("acme"), backlog=3)])

    def later(tenant: str = "acme", **more: Any) -> Submission:
        return queue.call(tenant, run_at=datetime.now(UTC) + timedelta(hours=1), **more)

    assert await outcomes(queue, later(request_id="one"), later()) == [CREATED] * 2
    assert await outcomes(queue, *(later() for _ in range(3))) == [CREATED] + [NOT_ADMITTED] * 2
    assert await outcomes(queue, queue.call(), later("bolt")) == [CREATED] * 2, "what is READY has a line of its own"
    assert await outcomes(queue, later(request_id="one")) == [JOINED]
    await queue.probe.pass_time(timedelta(hours=2))
    while await queue.work.promote(100):
        pass
    assert await outcomes(queue, *(later() for _ in range(4))) == [CREATED] * 3 + [NOT_ADMITTED]


async def test_jobs_that_are_held_count_when_the_line_has_passed_them(queue: Queue) -> None:
    await queue.process.admission.keep([bound(Target("acme"), backlog=3)])
    await queue.submit(*(queue.call() for _ in range(3)))
    await queue.operators.pause("tenant", "acme", by="root", note=None)
    assert await queue.work.hold_paused(100) == 3
    # Others' jobs move the line on past what is held.
    await queue.submit(*(queue.call("bolt") for _ in range(20)))
    await queue.claim(await queue.worker(), 20)
    assert await outcomes(queue, queue.call()) == [NOT_ADMITTED]
    assert await outcomes(queue, queue.call(lane=1)) == [CREATED]
    await queue.operators.resume("tenant", "acme")
    while await queue.work.free_resumed(100):
        pass
    await queue.claim(await queue.worker(), 20)
    assert await outcomes(queue, queue.call()) == [CREATED]


async def test_what_handlers_submit_is_held_to_the_bound_of_a_queue(queue: Queue) -> None:
    """For callers each gateway looks; for handlers the shard goes by what gateways have seen."""
    await queue.process.admission.keep([bound(Target("", "default"), backlog=5)])
    child = uuid4()
    assert await outcomes(queue, queue.call(parent_job_id=child, request_id="k")) == [CREATED]
    await queue.submit(*(queue.call() for _ in range(5)))
    await queue.store.exchange_turns()
    await queue.process.admission.loads(["default"])
    again = queue.call(parent_job_id=child, request_id="k")
    assert await outcomes(queue, queue.call(parent_job_id=child), again) == [NOT_ADMITTED, JOINED]
    await queue.claim(await queue.worker(), 6)

    async def let_in() -> bool:
        await queue.process.admission.loads(["default"])
        return await outcomes(queue, queue.call(parent_job_id=child)) == [CREATED]

    await until(let_in, seconds=10, every=0.2)


async def test_a_call_that_was_let_in_is_joined_however_full_it_is(queue: Queue) -> None:
    """And one that was not finds nothing under its key when it comes again."""
    await queue.process.admission.keep([bound(Target("acme"), backlog=1)])
    first, second = queue.call(request_id="one"), queue.call(request_id="two")
    assert await outcomes(queue, first, second) == [CREATED, NOT_ADMITTED]
    again: Sequence[Submission] = [queue.call(request_id="one"), queue.call(request_id="two")]
    assert await outcomes(queue, *again) == [JOINED, NOT_ADMITTED]
    await queue.claim(await queue.worker(), 1)
    assert await outcomes(queue, queue.call(request_id="two")) == [CREATED]


async def test_calls_with_one_key_in_one_batch_are_refused_alike(queue: Queue) -> None:
    await queue.process.admission.keep([bound(Target("acme"), backlog=0)])
    assert await outcomes(queue, *(queue.call(request_id="one") for _ in range(3))) == [NOT_ADMITTED] * 3


async def test_of_calls_that_belong_together_none_is_written_if_one_is_refused(queue: Queue) -> None:
    await queue.process.admission.keep([bound(Target("acme"), backlog=2)])
    answers = await queue.store.submit_atomic([queue.call() for _ in range(3)])
    assert [answer.outcome for answer in answers] == [CREATED, CREATED, NOT_ADMITTED]
    assert await queue.claim(await queue.worker()) == []
    answers = await queue.store.submit_atomic([queue.call() for _ in range(2)])
    assert [answer.outcome for answer in answers] == [CREATED, CREATED]


async def test_of_calls_that_belong_together_none_is_written_and_none_has_had_its_turn(queue: Queue) -> None:
    """They come again and again while one job of the tenant waits: each time the same two are one too many."""
    await queue.process.admission.keep([bound(Target("acme"), backlog=4)])
    await queue.submit(queue.call())
    for _ in range(3):
        answers = await queue.store.submit_atomic([queue.call() for _ in range(4)])
        assert [answer.outcome for answer in answers] == [CREATED] * 3 + [NOT_ADMITTED]
    assert await outcomes(queue, *(queue.call() for _ in range(4))) == [CREATED] * 3 + [NOT_ADMITTED]


async def test_a_tenant_is_not_kept_out_by_jobs_that_are_gone(queue: Queue) -> None:
    """Nobody claimed them, so that the line has not moved."""
    await queue.process.admission.keep([bound(Target("acme"), backlog=5)])
    calls = [queue.call() for _ in range(5)]
    await queue.submit(*calls)
    assert await outcomes(queue, queue.call()) == [NOT_ADMITTED]
    await queue.store.cancel_many("acme", [call.job_id for call in calls])
    assert await outcomes(queue, *(queue.call() for _ in range(8))) == [CREATED] * 5 + [NOT_ADMITTED] * 3


async def test_how_much_waits_in_a_queue_is_known_without_counting(queue: Queue) -> None:
    loads = await queue.process.admission.loads(["default", "unknown"])
    assert (loads["default"].backlog, loads["default"].oldest, "unknown" in loads) == (0, None, False)
    await queue.submit(*(queue.call(tenant) for tenant in ("acme", "bolt") for _ in range(20)))
    await queue.submit(*(queue.call(lane=1) for _ in range(5)))
    await queue.store.exchange_turns()
    await queue.probe.pass_time(timedelta(minutes=5))
    [load] = (await queue.process.admission.loads(["default"])).values()
    assert load.backlog == 45
    assert load.oldest is not None
    assert timedelta(minutes=5) <= load.oldest < timedelta(minutes=6)
    await queue.claim(await queue.worker(), 45)
    [load] = (await queue.process.admission.loads(["default"])).values()
    assert (load.backlog, load.oldest) == (0, None)
