"""Rows that only Postgres refuses: NUL, lone surrogates, what no index entry can hold. They cost their neighbours nothing."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from rowcall.errors import RowcallError
from rowcall.queue.model import EVERY_JOB, MethodIds, Settled, Settlement
from tests.fix_queue import PostgresQueue
from tests.support.queues import SUCCEEDED, outcomes

TOO_LONG = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(200))
"""A key that no index entry can hold, even compressed."""


async def test_a_row_that_the_database_refuses_costs_its_neighbours_nothing(queue: PostgresQueue) -> None:
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
    assert len(await queue.store.list("acme", EVERY_JOB, limit=100)) == 4
    refused = [answer for answer in answers if isinstance(answer, RowcallError)]
    assert all(TOO_LONG[:8] not in answer.message and "submit_jobs" not in answer.message for answer in refused)


async def test_an_atomic_batch_with_a_row_that_is_refused_writes_nothing(queue: PostgresQueue) -> None:
    with pytest.raises(RowcallError, match="INTERNAL"):
        await queue.store.submit_atomic([queue.call(), queue.call(request_id=TOO_LONG)])
    assert await queue.value("select count(*) from rowcall.job") == 0


async def test_a_settlement_that_the_database_refuses_costs_its_neighbours_nothing(queue: PostgresQueue) -> None:
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
