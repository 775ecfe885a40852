"""What every implementation of the queue keeps to: submitting calls and their keys.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from rowcall.catalogue.model import Policy
from rowcall.queue.model import EVERY_JOB, SubmitOutcome, Submitted
from tests.support.queues import METHOD, READY, Queue, taken


async def test_a_call_becomes_a_row_that_says_what_it_was_called_with(queue: Queue) -> None:
    gateway = uuid4()
    call = queue.call(
        actor="ann",
        lane=1,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate="a=b",
        labels={"city": "Zürich", "empty": ""},
        fairness_key="press",
        request_id="key-1",
        waiter_id=gateway,
        request=b"\x00\xff bytes",
    )
    assert await queue.submit(call) == [Submitted(SubmitOutcome.CREATED, call.job_id)]

    row = (await queue.store.read([("acme", call.job_id)], request=True))["acme", call.job_id]
    assert (row.state, row.lane, row.queue, row.method, row.attempt) == (READY, 1, "default", METHOD, 0)
    assert (row.actor, row.request_id, row.traceparent) == ("ann", "key-1", call.traceparent)
    assert row.labels == {"city": "Zürich", "empty": ""}
    assert row.request == b"\x00\xff bytes"
    assert row.max_attempts == Policy().max_attempts
    assert not row.done

    [job] = await queue.claim(await queue.worker())
    assert (job.tenant, job.job_id, job.attempt, job.lost) == ("acme", call.job_id, 1, 0)
    assert (job.request, job.request_id, job.actor, job.labels) == (call.request, "key-1", "ann", call.labels)
    assert (job.traceparent, job.tracestate) == (call.traceparent, "a=b")
    assert (await queue.settle(job)).settled


async def test_a_repeat_joins_its_job(queue: Queue) -> None:
    first, again = queue.call(request_id="k"), queue.call(request_id="k")
    await queue.submit(first)
    assert await queue.submit(again) == [Submitted(SubmitOutcome.JOINED, first.job_id)]
    assert await queue.state("acme", again.job_id) is None


async def test_a_repeat_joins_its_job_after_it_is_finished(queue: Queue) -> None:
    first = queue.call(request_id="k")
    await queue.submit(first)
    [job] = await queue.claim(await queue.worker())
    await queue.settle(job, response=b"answer")
    assert await queue.submit(queue.call(request_id="k")) == [Submitted(SubmitOutcome.JOINED, first.job_id)]
    assert await queue.claim(await queue.worker("other")) == []


async def test_the_same_submission_again_joins_itself(queue: Queue) -> None:
    """Sent twice, because nobody knew whether the first one was committed."""
    call = queue.call(request_id="k")
    await queue.submit(call)
    assert await queue.submit(call) == [Submitted(SubmitOutcome.JOINED, call.job_id)]


async def test_a_key_with_another_request_is_refused(queue: Queue) -> None:
    first = queue.call(request_id="k")
    await queue.submit(first)
    answers = await queue.submit(queue.call(request_id="k", fingerprint=b"fingerprint of 2"))
    assert answers == [Submitted(SubmitOutcome.KEY_REUSED, first.job_id)]
    assert len(await queue.store.list("acme", EVERY_JOB, limit=10)) == 1


async def test_a_key_of_another_fingerprint_is_compared_by_the_stored_request(queue: Queue) -> None:
    """One of an older format, or of another serialisation: live or finished, as long as its request is known."""
    first = queue.call(request_id="k", fingerprint=b"fingerprint of an older format")
    [created] = await queue.submit(first)
    again = queue.call(request_id="k", request=first.request)
    other = queue.call(request_id="k")
    assert (await queue.submit(again))[0].outcome is SubmitOutcome.KEY_REUSED, "until it is compared"

    async def check() -> None:
        assert await queue.store.kept_fingerprint(other) is None
        assert await queue.store.kept_fingerprint(replace(again, tenant="bolt")) is None
        assert await queue.store.kept_fingerprint(replace(again, request_id="another")) is None
        kept = await queue.store.kept_fingerprint(again)
        assert kept == first.fingerprint
        joined = Submitted(SubmitOutcome.JOINED, created.job_id)
        assert await queue.submit(replace(again, fingerprint=kept)) == [joined]

    await check()
    [job] = await queue.claim(await queue.worker())
    await check()
    await queue.settle(job, response=b"r")
    await check()
    assert await queue.store.delete("acme", created.job_id)
    assert await queue.store.kept_fingerprint(again) is None, "nobody knows its request any more"


async def test_a_key_that_has_expired_has_nothing_to_be_compared_with(queue: Queue) -> None:
    first = queue.call(request_id="k", fingerprint=b"fingerprint of an older format")
    await queue.submit(first)
    again = queue.call(request_id="k", request=first.request)
    await queue.probe.pass_time(timedelta(days=6, hours=23))
    assert await queue.store.kept_fingerprint(again) == first.fingerprint
    await queue.probe.pass_time(timedelta(hours=1, seconds=1))
    assert await queue.store.kept_fingerprint(again) is None


async def test_a_batch_that_is_atomic_joins_what_is_the_same_request(queue: Queue) -> None:
    first = queue.call(request_id="there", fingerprint=b"fingerprint of an older format")
    await queue.submit(first)
    fresh = queue.call(request_id="new")
    calls = [
        queue.call(request_id="there", request=first.request),
        fresh,
        queue.call(request_id="new", request=fresh.request, fingerprint=b"of another serialisation"),
        queue.call(),
    ]
    assert await queue.store.submit_atomic(calls) == [
        Submitted(SubmitOutcome.JOINED, first.job_id),
        Submitted(SubmitOutcome.CREATED, fresh.job_id),
        Submitted(SubmitOutcome.JOINED, fresh.job_id),
        Submitted(SubmitOutcome.CREATED, calls[3].job_id),
    ]
    assert {key.request_id: key.job_id for key in await queue.probe.keys()} == {
        "there": first.job_id,
        "new": fresh.job_id,
    }


async def test_keys_are_apart_by_tenant_and_method(queue: Queue) -> None:
    other = await queue.store.method_ids("acme.v1.PrintService/Scan", Policy())
    calls = [
        queue.call("acme", request_id="k"),
        queue.call("bolt", request_id="k"),
        queue.call("acme", request_id="k", ids=other),
    ]
    assert [answer.outcome for answer in await queue.submit(*calls)] == [SubmitOutcome.CREATED] * 3


async def test_an_expired_key_is_as_good_as_none(queue: Queue) -> None:
    first = queue.call(request_id="k")
    await queue.submit(first)
    await queue.probe.pass_time(timedelta(days=7, seconds=1))
    second = queue.call(request_id="k", fingerprint=b"fingerprint of 2")
    assert await queue.submit(second) == [Submitted(SubmitOutcome.CREATED, second.job_id)]
    # From here on the key names the second job.
    third = queue.call(request_id="k", fingerprint=b"fingerprint of 2")
    assert await queue.submit(third) == [Submitted(SubmitOutcome.JOINED, second.job_id)]


async def test_two_gateways_with_the_same_keys_make_one_job_each(queue: Queue) -> None:
    """Each key once, in opposite orders, at the same time, again and again."""
    async with queue.another() as other:
        for number in range(10):
            keys = [f"{number}-{key}" for key in range(64)]
            mine = [queue.call(request_id=key) for key in keys]
            theirs = [queue.call(request_id=key) for key in reversed(keys)]
            ours = await asyncio.gather(queue.store.submit(mine), other.store.submit(theirs))
            answers = [taken(answer) for answer in (*ours[0], *reversed(ours[1]))]
            outcomes = sorted(answer.outcome for answer in answers)
            assert outcomes == [SubmitOutcome.CREATED] * 64 + [SubmitOutcome.JOINED] * 64
            assert [answer.job_id for answer in answers[:64]] == [answer.job_id for answer in answers[64:]]
    assert len(await queue.live()) == 640


async def test_a_tenant_that_is_not_here_is_refused(queue: Queue) -> None:
    await queue.probe.fence("bolt")
    calls = [queue.call("nobody", request_id="k"), queue.call("bolt", request_id="k"), queue.call("acme")]
    assert [answer.outcome for answer in await queue.submit(*calls)] == [
        SubmitOutcome.WRONG_SHARD,
        SubmitOutcome.WRONG_SHARD,
        SubmitOutcome.CREATED,
    ]
    assert await queue.probe.keys() == [], "a refused call leaves its key free"


async def test_a_batch_is_atomic_where_it_is_asked_to_be(queue: Queue) -> None:
    first = queue.call(request_id="taken")
    await queue.submit(first)
    fresh = queue.call(request_id="new")

    refused = [fresh, queue.call(request_id="taken", fingerprint=b"fingerprint of 2")]
    outcomes = [answer.outcome for answer in await queue.store.submit_atomic(refused)]
    assert outcomes == [SubmitOutcome.CREATED, SubmitOutcome.KEY_REUSED]
    assert await queue.state("acme", fresh.job_id) is None, "nothing was written"

    elsewhere = await queue.store.submit_atomic([fresh, queue.call("nobody")])
    assert SubmitOutcome.WRONG_SHARD in [answer.outcome for answer in elsewhere]
    assert await queue.state("acme", fresh.job_id) is None, "nothing was written"

    answers = await queue.store.submit_atomic([fresh, queue.call(request_id="taken"), queue.call(request_id="new")])
    assert answers == [
        Submitted(SubmitOutcome.CREATED, fresh.job_id),
        Submitted(SubmitOutcome.JOINED, first.job_id),
        Submitted(SubmitOutcome.JOINED, fresh.job_id),
    ]
    assert await queue.state("acme", fresh.job_id) == READY


async def test_an_atomic_batch_with_one_key_for_two_requests_writes_nothing(queue: Queue) -> None:
    one, other = queue.call(request_id="k"), queue.call(request_id="k", fingerprint=b"fingerprint of 2")
    answers = await queue.store.submit_atomic([one, other])
    assert [answer.outcome for answer in answers] == [SubmitOutcome.CREATED, SubmitOutcome.KEY_REUSED]
    assert await queue.probe.jobs() == []
    assert await queue.probe.keys() == []
