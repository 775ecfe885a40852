"""What calls of models and providers cost is booked with what tells of it, once, whatever becomes of the attempt and its job.

By SQL, for no reader of it is built yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from rowcall.queue.model import ClaimedJob, Progress, Running, Settled, Settlement, Spent, Submission
from rowcall.queue.postgres.settling import NOT_OURS
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.queue.spend import Spend, SpendKind
from rowcall.queue.transactions import TransactionLimits
from tests.fix_queue import Logins, PostgresQueue
from tests.support.queues import FAILED, SCHEDULED, SUCCEEDED

TRACE = UUID("0af76519-16cd-43dd-8448-eb211c80319c")
LIMITS = TransactionLimits(timedelta(minutes=1), timedelta(minutes=1), timedelta(seconds=10))


def model_call(queue: PostgresQueue, call: int = 1, **changes: Any) -> Spend:
    """A call of a model."""
    spend = Spend(
        call,
        SpendKind.MODEL,
        queue.ids.method_id,
        "openai",
        "gpt-7",
        trace_id=TRACE,
        input_tokens=1200,
        output_tokens=80,
        cost=Decimal("0.0123456789"),
        currency="USD",
        latency=timedelta(milliseconds=750),
        verdict="ok",
    )
    return replace(spend, **changes)


def settlement(job: ClaimedJob, spend: Sequence[Spend], state: int = SUCCEEDED, **more: Any) -> Settlement:
    """An attempt that ended, with what it cost."""
    return Settlement(job.tenant, job.job_id, job.lease, state, response=b"r", error=b"e", spend=spend, **more)


def progress(job: ClaimedJob) -> Progress:
    return Progress(Running(job.tenant, job.job_id, job.lease), 0.5, "half")


def spent(job: ClaimedJob, *spend: Spend) -> list[Spent]:
    return [Spent(Running(job.tenant, job.job_id, job.lease), each) for each in spend]


async def claimed(queue: PostgresQueue, *calls: Submission) -> list[ClaimedJob]:
    """Jobs that run, in the order of their calls."""
    await queue.submit(*calls)
    jobs = {job.job_id: job for job in await queue.claim(await queue.worker())}
    return [jobs[call.job_id] for call in calls]


async def entries(queue: PostgresQueue) -> list[tuple[Any, ...]]:
    """What was spent: job, lease, call, cost."""
    rows = await queue.admin.execute("select job_id, lease, call, cost from rowcall.spend_entry order by 1, 2, 3")
    return await rows.fetchall()


async def sums(queue: PostgresQueue) -> list[tuple[Any, ...]]:
    """By tenant and model: calls, tokens, cost."""
    rows = await queue.admin.execute(
        "select tenant, model, currency, sum(calls), sum(input_tokens), sum(output_tokens), sum(cost)"
        " from rowcall.spend where day = (clock_timestamp() at time zone 'UTC')::date group by 1, 2, 3 order by 1, 2, 3"
    )
    return await rows.fetchall()


async def test_everything_of_a_call_is_kept_and_summed(queue: PostgresQueue) -> None:
    [job] = await claimed(queue, queue.call())
    lookup = Spend(2, SpendKind.PROVIDER, queue.ids.method_id, "registry")
    [answer] = await queue.work.settle([settlement(job, [model_call(queue), lookup])])
    assert isinstance(answer, Settled)
    assert (answer.settled, answer.state) == (True, SUCCEEDED)
    rows = await queue.admin.execute(
        "select tenant, lease, call, method_id, kind, trace_id, input_tokens, output_tokens, cost, latency, provider, model,"
        " currency, verdict, spent_at between clock_timestamp() - interval '1 minute' and clock_timestamp()"
        " from rowcall.spend_entry order by call"
    )
    method = queue.ids.method_id
    assert await rows.fetchall() == [
        ("acme", job.lease, 1, method, 1, TRACE, 1200, 80, Decimal("0.0123456789"), timedelta(milliseconds=750), "openai",
         "gpt-7", "USD", "ok", True),
        ("acme", job.lease, 2, method, 2, None, None, None, None, None, "registry", "", None, None, True),
    ]  # fmt: skip
    assert await sums(queue) == [
        ("acme", "", "", 1, 0, 0, 0),
        ("acme", "gpt-7", "USD", 1, 1200, 80, Decimal("0.0123456789")),
    ]


async def test_sums_are_exact_over_many_settlements(queue: PostgresQueue) -> None:
    jobs = await claimed(queue, *(queue.call() for _ in range(30)), *(queue.call("bolt") for _ in range(3)))
    told = [settlement(job, [model_call(queue, call, cost=Decimal("0.1")) for call in (1, 2)]) for job in jobs]
    answers = await asyncio.gather(*(queue.work.settle(told[at : at + 3]) for at in range(0, len(told), 3)))
    assert all(isinstance(each, Settled) and each.settled for batch in answers for each in batch)
    assert await sums(queue) == [
        ("acme", "gpt-7", "USD", 60, 72_000, 4800, Decimal("6.0")),
        ("bolt", "gpt-7", "USD", 6, 7200, 480, Decimal("0.6")),
    ]


async def test_two_that_book_at_once_have_a_slot_each(queue: PostgresQueue, logins: Logins) -> None:
    """Of sessions whose first choice is the same, neither waits for what the other has not committed, and nothing is lost."""
    book = (
        "select rowcall.book_spend(array[row('acme', gen_random_uuid(), 1, 1, 1, 1, null, 5, 5, 1, null, 'openai', 'gpt-7', 'USD', null)"
        "::rowcall.spent]) from generate_series(1, %s)"
    )
    sessions = [await psycopg.AsyncConnection.connect(logins.admin) for _ in range(17)]
    try:
        places = [each.info.backend_pid & 15 for each in sessions]
        # Of seventeen two have the same.
        first = next(place for place in places if places.count(place) > 1)
        one, other = [each for each, place in zip(sessions, places, strict=True) if place == first][:2]
        for count in (3, 4):
            await other.execute(book, [count])
            async with asyncio.timeout(30):
                await one.execute(book, [count + 10])
            await other.commit()
            await one.commit()
    finally:
        for each in sessions:
            await each.close()
    assert await sums(queue) == [("acme", "gpt-7", "USD", 34, 170, 170, 34)]


async def test_a_repeat_is_not_counted_twice(queue: PostgresQueue) -> None:
    """By progress and by the settle, in one batch and in two, and by two that tell at once."""
    first, second = await claimed(queue, queue.call(), queue.call())
    call, other = model_call(queue), model_call(queue, 2, cost=Decimal(1))
    await queue.work.report_progress([progress(first)], spent(first, call, call))
    await asyncio.gather(
        *(queue.work.report_progress([progress(first), progress(second)], spent(first, call, other)) for _ in range(4))
    )
    await queue.work.settle([settlement(first, [call, other]), settlement(second, [call])])
    await queue.work.settle([settlement(first, [call, other])])
    assert len(await entries(queue)) == 3
    assert await sums(queue) == [("acme", "gpt-7", "USD", 3, 3600, 240, Decimal("1.0246913578"))]


async def test_an_attempt_that_was_fenced_off_has_spent_it_all_the_same(queue: PostgresQueue) -> None:
    """Its settle and its progress are refused, and the job goes on under another lease number."""
    [zombie] = await claimed(queue, queue.call())
    await queue.work.release([zombie])
    [job] = await queue.claim(await queue.worker())
    assert (
        await queue.work.report_progress([progress(zombie)], spent(zombie, model_call(queue, 1, cost=Decimal(1)))) == []
    )
    assert await queue.work.settle([settlement(zombie, [model_call(queue, 2, cost=Decimal(2))])]) == [NOT_OURS]
    assert (await queue.row(job)).progress is None
    await queue.work.settle([settlement(job, [model_call(queue, 1, cost=Decimal(4))])])
    assert await entries(queue) == [
        (job.job_id, zombie.lease, 1, 1),
        (job.job_id, zombie.lease, 2, 2),
        (job.job_id, job.lease, 1, 4),
    ]
    assert (await sums(queue))[0][-1] == 7


async def test_what_was_spent_outlives_the_job(queue: PostgresQueue) -> None:
    first, second = await claimed(queue, queue.call(), queue.call())
    await queue.work.settle([settlement(first, [model_call(queue)]), settlement(second, [model_call(queue)], FAILED)])
    assert await queue.store.delete("acme", first.job_id)
    assert await queue.store.delete("acme", second.job_id)
    assert len(await entries(queue)) == 2
    assert (await sums(queue))[0][3] == 2


async def test_every_way_that_an_attempt_ends_tells_what_it_cost(queue: PostgresQueue) -> None:
    """Tried again, cancelled meanwhile, with children, refused with a child."""
    again, cancelled, parent, refused = await claimed(
        queue, queue.call(), queue.call(), queue.call(), queue.call("bolt")
    )
    await queue.store.cancel("acme", cancelled.job_id)
    taken = queue.call("bolt", request_id="taken")
    await queue.submit(taken)
    clash = queue.call("bolt", request_id="taken", fingerprint=b"another one")
    answers = await queue.work.settle(
        [
            settlement(again, [model_call(queue)], SCHEDULED, delay=timedelta(0)),
            settlement(cancelled, [model_call(queue)], SCHEDULED, delay=timedelta(0)),
            settlement(parent, [model_call(queue)], children=[queue.call()]),
            settlement(refused, [model_call(queue)], children=[clash]),
        ]
    )
    assert [isinstance(each, Settled) and each.settled for each in answers] == [True, True, True, False]
    assert isinstance(answers[3], Exception)
    told = {job_id for job_id, *_ in await entries(queue)}
    assert told == {again.job_id, cancelled.job_id, parent.job_id}, (
        "what is refused is settled otherwise, and told then"
    )


async def test_a_transaction_that_does_not_count_has_cost_what_it_cost(queue: PostgresQueue, logins: Logins) -> None:
    await queue.admin.execute("create table public.effect (note text)")
    await queue.admin.execute("grant insert on public.effect to rowcall_worker")
    kept, stale = await claimed(queue, queue.call(), queue.call())
    kwargs = {"prepare_threshold": None, "autocommit": True}
    async with (
        AsyncConnectionPool(logins.worker, kwargs=kwargs, max_size=1, min_size=0, open=False, name="a") as pool,
        AsyncConnectionPool(logins.worker, kwargs=kwargs, max_size=1, min_size=0, open=False, name="a") as lent,
    ):
        work = PostgresWorkQueue(pool, pool, pool, transaction_pool=lent)
        for job in (kept, stale):
            transaction = await work.transactions(LIMITS).begin(threaded=False, expired=lambda: None)
            await transaction.connection.execute("insert into public.effect (note) values ('kept')")  # type: ignore[misc]
            if job is stale:
                await queue.admin.execute("update rowcall.job set lease = lease + 1")
            assert transaction.seal() is None
            answer = await transaction.settle(settlement(job, [model_call(queue)]))
            assert answer.settled is (job is kept)
            await transaction.close()
    assert await queue.value("select count(*) from public.effect") == 1
    assert {job_id for job_id, *_ in await entries(queue)} == {kept.job_id, stale.job_id}


async def test_a_settle_without_spend_runs_the_statement_that_knows_none(
    queue: PostgresQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so costs what it did."""
    with_it, without = await claimed(queue, queue.call(), queue.call())
    ran: list[str] = []
    session = queue.work._settler._session  # type: ignore[attr-defined]
    run = session.run

    async def noted(name: str, *arguments: Any, **more: Any) -> Any:
        ran.append(name)
        return await run(name, *arguments, **more)

    monkeypatch.setattr(session, "run", noted)
    await queue.work.settle([settlement(without, [])])
    await queue.work.settle([settlement(with_it, [model_call(queue)])])
    assert ran == ["settle_jobs", "settle_and_book"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"call": 0}, "counted from 1"),
        ({"provider": ""}, "say who was called"),
        ({"provider": "x" * 256}, "more than 255"),
        ({"model": "a\0b"}, "has NUL"),
        ({"verdict": "x" * 256}, "more than 255"),
        ({"input_tokens": -1}, "Spend.input_tokens is -1"),
        ({"output_tokens": 2**60}, "Spend.output_tokens is"),
        ({"cost": Decimal(-1)}, "Spend.cost is -1"),
        ({"cost": Decimal("NaN")}, "Spend.cost is NaN"),
        ({"cost": Decimal("Infinity")}, "Spend.cost is Infinity"),
        ({"cost": Decimal("1E+12")}, "Spend.cost is 1E+12"),
        ({"cost": Decimal("1E-13")}, "12 digits behind the point"),
        ({"cost": None}, "go together"),
        ({"currency": None}, "go together"),
        ({"currency": "usd"}, "three letters of ISO 4217"),
        ({"currency": "XYZ"}, "three letters of ISO 4217"),
        ({"model": "\ud800"}, "half a surrogate"),
        ({"latency": timedelta(seconds=-1)}, "less than nothing"),
    ],
)
async def test_what_cannot_be_booked_is_refused_by_name(
    queue: PostgresQueue, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=r"^Spend\.") as caught:
        model_call(queue, **changes)
    assert told in str(caught.value)


async def test_what_is_just_possible_is_kept(queue: PostgresQueue) -> None:
    [job] = await claimed(queue, queue.call())
    most = {"provider": "ü" * 255, "model": "m" * 255, "verdict": "v" * 255, "input_tokens": 2**53, "output_tokens": 0}
    costs = [Decimal("999999999999.999999999999"), Decimal("0.000000000001"), Decimal("5E+3"), Decimal("0.10")]
    spend = [model_call(queue, call, cost=cost, **most) for call, cost in enumerate(costs, 1)]
    await queue.work.settle([settlement(job, spend)])
    assert [row[3] for row in await entries(queue)] == costs
    assert (await sums(queue))[0][-1] == sum(costs)
