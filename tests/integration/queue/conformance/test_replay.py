"""What every implementation of the queue keeps to: failed jobs, grouped, replayed and resolved.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from rowcall.catalogue.model import Policy
from rowcall.queue.model import DONE, LIVE, FollowUp, JobFilter, Settlement, Submission, SubmitOutcome, Submitted
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from tests.support.queues import FAILED, METHOD, NOT_OURS, READY, SUCCEEDED, Queue

RESOLVED = JobState.JOB_STATE_RESOLVED


async def fail(queue: Queue, *calls: Submission, message: str = "no paper", code: int = 9) -> None:
    """Submits calls, and lets each fail."""
    await queue.submit(*calls)
    worker = await queue.worker("failing")
    while jobs := await queue.claim(worker, 1000):
        settled = await queue.work.settle(
            [
                Settlement(
                    job.tenant, job.job_id, job.lease, FAILED, error=b"e", error_code=code, error_message=message,
                    span_id="00f067aa0ba902b7",
                )
                for job in jobs
            ]
        )  # fmt: skip
        assert not [answer for answer in settled if isinstance(answer, Exception) or not answer.settled]


async def test_a_replayed_job_keeps_its_identity_and_its_history(queue: Queue) -> None:
    ids = await queue.store.method_ids(METHOD, Policy(max_attempts=2, deadline=timedelta(hours=1)))
    after = await queue.store.method_ids("acme.v1.PrintService/After", Policy())
    call = queue.call(
        ids=ids, request_id="k", labels={"a": "b"}, actor="ann", fairness_key="f", deadline=timedelta(hours=1),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate="x=y",
        parent_job_id=uuid4(), waiter_id=uuid4(), on_done=FollowUp(after, 2),
    )  # fmt: skip
    await fail(queue, call)
    before = await queue.row(call)
    [(replayed, queue_id)] = (await queue.store.replay("acme", [call.job_id])).items()
    assert (replayed, queue_id) == (call.job_id, ids.queue_id)

    row = (await queue.store.read([("acme", call.job_id)], request=True))["acme", call.job_id]
    assert (row.state, row.attempt, row.replays, row.request) == (READY, 0, 1, call.request)
    same = ("created_at", "request_id", "actor", "traceparent", "labels", "parent_job_id", "lane", "queue", "method")
    assert {name: getattr(row, name) for name in same} == {name: getattr(before, name) for name in same}
    assert row.deadline is not None
    assert before.deadline is not None
    assert row.deadline > before.deadline, "its time begins again"
    [attempt] = row.attempts
    assert (attempt.attempt, attempt.outcome, attempt.worker) == (1, AttemptOutcome.ATTEMPT_OUTCOME_FAILED, "failing")
    assert (attempt.error, attempt.span_id) == (b"e", "00f067aa0ba902b7")
    assert (await queue.facts(call.job_id)).fairness_key == "f"
    assert [job for job in await queue.probe.jobs() if job.state in DONE] == [], "one row a job"

    joined = queue.call(ids=ids, request_id="k")
    assert await queue.submit(joined) == [Submitted(SubmitOutcome.JOINED, call.job_id)]
    [job] = await queue.claim(await queue.worker(), ids=ids)
    assert (job.job_id, job.attempt, job.request, job.tracestate) == (call.job_id, 1, call.request, "x=y")
    await queue.settle(job, response=b"at last")
    row = await queue.row(call)
    assert (row.state, row.replays, len(row.attempts)) == (SUCCEEDED, 1, 1)
    assert row.error_fingerprint is None
    followed_by = JobFilter(parent_job_id=call.job_id, states=LIVE)
    assert len(await queue.store.find("acme", followed_by, limit=10)) == 2, "what follows its end follows each of them"


async def test_a_replay_ends_the_lease_of_the_attempt_that_failed(queue: Queue) -> None:
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    await queue.settle(job, FAILED, error=b"e", error_code=9, error_message="m")
    await queue.store.replay("acme", [job.job_id])
    [again] = await queue.claim(await queue.worker())
    assert again.lease > job.lease
    assert await queue.settle(job, response=b"late") == NOT_OURS


async def test_only_a_tenants_own_failed_jobs_are_replayed_or_resolved(queue: Queue) -> None:
    failed = queue.call()
    await fail(queue, failed)
    live, done = queue.call(), queue.call(lane=1)
    await queue.submit(live, done)
    [job] = await queue.claim(await queue.worker(), 1)
    await queue.settle(job)
    names = [failed.job_id, live.job_id, done.job_id, uuid4()]
    assert await queue.store.replay("bolt", names) == {}
    assert await queue.store.resolve("bolt", names, by="eve", note=None) == []
    assert await queue.state("acme", failed.job_id) == FAILED
    assert set(await queue.store.replay("acme", names)) == {failed.job_id}
    assert await queue.store.replay("acme", names) == {}, "once"
    assert await queue.store.resolve("acme", names, by="ann", note=None) == []
    assert [await queue.state("acme", each.job_id) for each in (failed, live, done)] == [READY, READY, SUCCEEDED]


async def test_one_job_comes_before_a_thousand_that_are_replayed_at_once(queue: Queue) -> None:
    calls = [queue.call() for _ in range(1000)]
    await fail(queue, *calls)
    assert len(await queue.store.replay("acme", [call.job_id for call in calls])) == 1000
    assert len({job.order_key for job in await queue.probe.jobs() if job.state == READY}) == 1000
    one = queue.call("bolt")
    await queue.submit(one)
    assert one.job_id in [job.job_id for job in await queue.claim(await queue.worker(), 3)]


async def test_a_resolved_job_says_by_whom_and_why(queue: Queue) -> None:
    call = queue.call()
    await fail(queue, call)
    assert await queue.store.resolve("acme", [call.job_id], by="ann", note="printed by hand") == [call.job_id]
    row = await queue.row(call)
    assert (row.state, row.resolved_by, row.resolve_note) == (RESOLVED, "ann", "printed by hand")
    assert row.resolved_at is not None
    assert await queue.store.resolve("acme", [call.job_id], by="bob", note="late") == [], "once"
    assert await queue.store.replay("acme", [call.job_id]) == {}
    assert await queue.store.failure_groups("acme", limit=10) == []
    [outcome] = await queue.store.outcomes([("acme", call.job_id)])
    assert (outcome.state, outcome.error) == (RESOLVED, b"e"), "its caller still hears of what it died"


async def test_failures_that_are_alike_have_one_fingerprint(queue: Queue) -> None:
    async def fingerprint(code: int, message: str) -> str | None:
        call = queue.call()
        await fail(queue, call, code=code, message=message)
        return (await queue.row(call)).error_fingerprint

    alike = [
        "page 7 of job 0190a6b2-7c11-7def-8abc-0123456789ab is jammed at 0x7fff12",
        "page 12345 of job 0190a6b2-ffff-7def-8abc-ffffffffffff is jammed at 0xDEADBEEF",
    ]
    one, two = [await fingerprint(9, message) for message in alike]
    assert one == two
    others = {
        await fingerprint(9, "page 7 of job is jammed"),
        await fingerprint(10, alike[0]),
        await fingerprint(9, ""),
        one,
    }
    assert len(others) == 4
    assert {len(each or "") for each in others} == {16}
    assert await fingerprint(9, "x" * 1000 + "a") == await fingerprint(9, "x" * 1000 + "b")


async def test_failures_are_grouped_most_first(queue: Queue) -> None:
    jams, torn, theirs = [queue.call() for _ in range(3)], queue.call(), queue.call("bolt")
    for number, call in enumerate(jams):
        await fail(queue, call, message=f"jam on page {number}")
    await fail(queue, torn, message="torn", code=3)
    await fail(queue, theirs, message="jam on page 9")
    most, least = await queue.store.failure_groups("acme", limit=10)
    assert (most.method, most.jobs, most.error_code, most.error_message) == (METHOD, 3, 9, "jam on page 2")
    assert (most.last_job_id, least.last_job_id, least.jobs) == (jams[2].job_id, torn.job_id, 1)
    assert most.first_finished_at < most.last_finished_at < least.first_finished_at
    assert await queue.store.failure_groups("acme", method="a.B/Unknown", limit=10) == []
    assert [group.jobs for group in await queue.store.failure_groups("acme", method=METHOD, limit=1)] == [3]
    later = datetime.now(UTC) + timedelta(hours=1)
    assert await queue.store.failure_groups("acme", finished_from=later, limit=10) == []

    async def found(wanted: JobFilter) -> list[UUID]:
        return await queue.store.find("acme", wanted, limit=10)

    assert await found(JobFilter(error_fingerprint=most.error_fingerprint)) == [call.job_id for call in reversed(jams)]
    assert await found(JobFilter(states=[FAILED], error_fingerprint=least.error_fingerprint)) == [torn.job_id]


async def test_a_job_that_never_ran_has_no_attempt_after_its_replay(queue: Queue) -> None:
    call = queue.call(deadline=timedelta(hours=1))
    await queue.submit(call)
    await queue.probe.pass_time(timedelta(hours=1))
    assert [ended.job_id for ended in await queue.work.expire_jobs(10)] == [call.job_id]
    assert set(await queue.store.replay("acme", [call.job_id])) == {call.job_id}
    assert (await queue.row(call)).attempts == []
