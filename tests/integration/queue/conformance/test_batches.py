"""What every implementation of the queue keeps to: many calls at once, each with its own answer.

Duplicates, clocks that are off; rows that are refused for what only Postgres refuses are its own tests'.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from rowcall.errors import RowcallError
from rowcall.queue.model import SubmitOutcome, Submitted
from tests.support.queues import Queue, outcomes


async def test_duplicates_within_a_batch_are_joined(queue: Queue) -> None:
    calls = [queue.call(request_id=key) for key in ("b", "a", "b", "a", "b")] + [queue.call(), queue.call()]
    answers = await queue.submit(*calls)
    assert outcomes(list(answers)) == ["CREATED", "CREATED", "JOINED", "JOINED", "JOINED", "CREATED", "CREATED"]
    first_b, first_a = calls[0].job_id, calls[1].job_id
    assert [answer.job_id for answer in answers[:5]] == [first_b, first_a, first_b, first_a, first_b]
    assert len(await queue.live()) == 4


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
    assert await queue.probe.keys() == []

    jobs = await queue.claim(await queue.worker())
    for job in jobs:
        assert (await queue.settle(job)).settled
    found = await queue.store.outcomes([(job.tenant, job.job_id) for job in jobs])
    assert {each.job_id for each in found} == {call.job_id for call in calls[1:]}, "both are found in history"


async def test_nothing_in_nothing_out(queue: Queue) -> None:
    assert await queue.store.submit([]) == []
    assert await queue.store.submit_atomic([]) == []
    assert await queue.store.read([]) == {}
    assert await queue.store.outcomes([]) == []
    assert await queue.work.settle([]) == []
    assert await queue.work.release([]) == []
