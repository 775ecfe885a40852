"""Many calls in one statement, each with its own answer: duplicates, rows that the database refuses, clocks that are off."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from rowcall.errors import RowcallError, reason_name
from rowcall.queue.model import MethodIds, Settled, Settlement, SubmitOutcome, Submitted
from rowcall.queue.postgres.store import PostgresJobStore
from tests.fix_queue import SUCCEEDED, Queue
from tests.support.waiting import until

TOO_LONG = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(200))
"""A key that no index entry can hold, even compressed."""


def outcomes(answers: list[Submitted | Exception]) -> list[str]:
    """Each answer's outcome or reason."""
    return [
        answer.outcome.name
        if isinstance(answer, Submitted)
        else reason_name(answer.reason)
        if isinstance(answer, RowcallError)
        else type(answer).__name__
        for answer in answers
    ]


async def test_duplicates_within_a_batch_are_joined(queue: Queue) -> None:
    calls = [queue.call(request_id=key) for key in ("b", "a", "b", "a", "b")] + [queue.call(), queue.call()]
    answers = await queue.submit(*calls)
    assert outcomes(list(answers)) == ["CREATED", "CREATED", "JOINED", "JOINED", "JOINED", "CREATED", "CREATED"]
    first_b, first_a = calls[0].job_id, calls[1].job_id
    assert [answer.job_id for answer in answers[:5]] == [first_b, first_a, first_b, first_a, first_b]
    assert await queue.value("select count(*) from rowcall.job") == 4


async def test_a_duplicate_with_another_request_is_refused(queue: Queue) -> None:
    calls = [queue.call(request_id="k"), queue.call(request_id="k", fingerprint=b"fingerprint of 2")]
    answers = await queue.submit(*calls)
    assert answers[1] == Submitted(SubmitOutcome.KEY_REUSED, calls[0].job_id)


async def test_each_duplicate_is_judged_by_what_the_key_was_first_used_for(queue: Queue) -> None:
    """The first of the batch is the one that is refused; the second repeats the job that is there."""
    there = queue.call(request_id="k", fingerprint=b"A")
    await queue.submit(there)
    answers = await queue.store.submit(
        [queue.call(request_id="k", fingerprint=fingerprint) for fingerprint in (b"B", b"A", b"B", b"C", b"A")]
    )
    assert outcomes(answers) == ["KEY_REUSED", "JOINED", "KEY_REUSED", "KEY_REUSED", "JOINED"]
    assert {answer.job_id for answer in answers if isinstance(answer, Submitted)} == {there.job_id}


async def test_a_row_that_the_database_refuses_costs_its_neighbours_nothing(queue: Queue) -> None:
    bad_queue = MethodIds(queue.ids.method_id, queue.ids.policy_id, queue_id=999)
    calls = [
        queue.call(),
        queue.call(actor="a\0b"),
        queue.call(request_id=TOO_LONG),
        queue.call(request_id="same", actor="\ud800"),
        queue.call(request_id="same"),
        queue.call(ids=bad_queue),
        queue.call("nobody"),
        queue.call(run_at=datetime(9999, 12, 31, tzinfo=UTC)),
        queue.call(),
    ]
    answers = await queue.store.submit(calls)
    assert outcomes(answers) == [
        "CREATED", "INTERNAL", "INTERNAL", "INTERNAL", "CREATED", "INTERNAL", "WRONG_SHARD", "CREATED", "CREATED",
    ]  # fmt: skip
    assert len(await queue.store.list("acme", limit=100)) == 4
    refused = [answer for answer in answers if isinstance(answer, RowcallError)]
    assert all(TOO_LONG[:8] not in answer.message and "submit_jobs" not in answer.message for answer in refused)


async def test_an_atomic_batch_with_a_row_that_is_refused_writes_nothing(queue: Queue) -> None:
    with pytest.raises(RowcallError, match="INTERNAL"):
        await queue.store.submit_atomic([queue.call(), queue.call(request_id=TOO_LONG)])
    assert await queue.value("select count(*) from rowcall.job") == 0


async def test_an_id_from_the_future_is_refused(queue: Queue) -> None:
    """History is looked up by the id's time: what it says must be true."""

    def id_at(time: datetime) -> UUID:
        return UUID(int=(int(time.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62))

    now = datetime.now(UTC)
    ahead = queue.call(job_id=id_at(now + timedelta(minutes=61)), request_id="k")
    calls = [
        ahead,
        queue.call(job_id=id_at(now + timedelta(minutes=55))),
        queue.call(job_id=id_at(now - timedelta(days=3))),
    ]
    answers = await queue.store.submit(calls)
    assert outcomes(answers) == ["INTERNAL", "CREATED", "CREATED"]
    assert "clock" in str(answers[0])
    with pytest.raises(RowcallError, match="clock"):
        await queue.store.submit_atomic([queue.call(), ahead])
    assert await queue.value("select count(*) from rowcall.job_key") == 0

    jobs = await queue.claim(await queue.worker())
    for job in jobs:
        assert (await queue.settle(job)).settled
    found = await queue.store.outcomes([(job.tenant, job.job_id) for job in jobs])
    assert {each.job_id for each in found} == {call.job_id for call in calls[1:]}, "both are found in history"


async def test_a_settlement_that_the_database_refuses_costs_its_neighbours_nothing(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(5)))
    jobs = await queue.claim(await queue.worker())
    batch = [
        Settlement(job.tenant, job.job_id, job.lease, SUCCEEDED, response=b"r", span_id="\0" if place == 2 else None)
        for place, job in enumerate(jobs)
    ]
    answers = await queue.work.settle(batch)
    assert [isinstance(answer, Settled) and answer.settled for answer in answers] == [True, True, False, True, True]
    assert isinstance(answers[2], RowcallError)
    assert await queue.value("select count(*) from rowcall.job") == 1


async def test_nothing_in_nothing_out(queue: Queue) -> None:
    assert await queue.store.submit([]) == []
    assert await queue.store.submit_atomic([]) == []
    assert await queue.store.read([]) == {}
    assert await queue.store.outcomes([]) == []
    assert await queue.work.settle([]) == []
    assert await queue.work.release([]) == []


@pytest.mark.straight("it counts the statements that its own session prepared")
async def test_batches_of_every_size_and_content_are_sent_the_same_way(queue: Queue) -> None:
    """One prepared statement for all of them: the types of the columns do not change with what is in them."""
    async with AsyncConnectionPool(queue.logins.gateway, min_size=1, max_size=1, open=False) as pool:
        store = PostgresJobStore(pool, pool)
        await store.submit([queue.call()])
        await store.submit([queue.call(request_id=f"k{n}", labels={"a": "b"}) for n in range(300)])
        await store.submit([queue.call(actor="ann", run_at=datetime.now(UTC), waiter_id=UUID(int=1), lane=1)])
        async with pool.connection() as connection:
            rows = await (await connection.execute("select statement from pg_prepared_statements")).fetchall()
    assert len(rows) == 1


async def test_collisions_are_tried_again(queue: Queue) -> None:
    """Two sessions lock two keys in opposite orders; the deadlock is resolved without the caller knowing."""
    await queue.submit(queue.call(request_id="a"), queue.call(request_id="b"))
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as other:
        await other.execute("set deadlock_timeout = '1h'")  # so that it is the store's session that is given up
        await other.execute("select from rowcall.job_key where request_id = 'b' for update")
        submit = asyncio.create_task(queue.store.submit([queue.call(request_id="a"), queue.call(request_id="b")]))
        await queue.somebody_waits()
        await other.execute("select from rowcall.job_key where request_id = 'a' for update")
        await other.commit()
        assert outcomes(await submit) == ["JOINED", "JOINED"]
    deadlocks = "select deadlocks > 0 from pg_stat_database where datname = current_database()"
    await until(lambda: queue.value(deadlocks))
