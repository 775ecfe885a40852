"""What every implementation of the queue keeps to: everything of a tenant can be taken along and erased, and nothing of another's.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from rowcall.audit.chain import ERASE, Walk
from rowcall.audit.model import SYSTEM, Act
from rowcall.catalogue.model import Policy
from rowcall.errors import RowcallError
from rowcall.queue.model import FollowUp, JobRow, Running, Settlement, Spent, SubmitOutcome
from rowcall.queue.spend import Spend, SpendKind
from rowcall.queue.tenants import Erased, ErasurePhase, TenantAdmin
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.support.probe import ErasureTimes
from tests.support.queues import CANCELLED, FAILED, NOT_OURS, RUNNING, SUCCEEDED, Queue, outcomes
from tests.support.waiting import until

ADA = Act(actor="ada", credential="jwt idp", roles=("admin",), trace_id="b" * 32)
LONG = timedelta(hours=1)
PHASES = ErasurePhase


def admin(queue: Queue, **times: timedelta) -> TenantAdmin:
    """Erases, waiting for nothing but for what is said."""
    return queue.process.tenants(ErasureTimes(**times))


async def erase(tenants: TenantAdmin, limit: int = 1000, tenant: str = "acme") -> Erased:
    erased = await tenants.erase(tenant, limit=limit, by="ada", note="contract ended", act=ADA)
    assert erased is not None
    return erased


async def erase_all(tenants: TenantAdmin, limit: int = 1000, tenant: str = "acme") -> Erased:
    """Erases until nothing is left."""
    last: list[Erased] = []

    async def done() -> bool:
        last[:] = [await erase(tenants, limit, tenant)]
        return last[0].phase is PHASES.DONE

    await until(done)
    return last[0]


def spent(queue: Queue, call: int = 1) -> Spend:
    return Spend(
        call=call, kind=SpendKind.MODEL, method_id=queue.ids.method_id, provider="p", model="m", input_tokens=3,
        cost=Decimal("0.25"), currency="EUR",
    )  # fmt: skip


async def worked(queue: Queue, tenant: str, count: int) -> list[UUID]:
    """Jobs of a tenant that have ended, with keys and with what they cost."""
    calls = [queue.call(tenant, request_id=f"{tenant}-{number}") for number in range(count)]
    await queue.submit(*calls)
    worker = await queue.worker()
    for job in await queue.claim(worker):
        await queue.settle(job, response=b"answer", spend=[spent(queue)])
    return [call.job_id for call in calls]


async def exported(tenants: TenantAdmin, tenant: str = "acme", limit: int = 2) -> list[JobRow]:
    rows: list[JobRow] = []
    while page := await tenants.export_jobs(
        tenant, after=rows[-1].job_id if rows else None, limit=limit, limit_bytes=10**6, payloads=True, act=ADA
    ):
        rows += page
    return rows


async def test_everything_of_a_tenant_is_erased_and_nothing_of_another(queue: Queue) -> None:
    await worked(queue, "acme", 5)
    theirs = await worked(queue, "bolt", 2)
    await queue.submit(*(queue.call() for _ in range(3)), queue.call("bolt"))
    await queue.store.exchange_turns()
    before = await queue.store.list("bolt", limit=10)
    tenants = admin(queue)

    done = await erase_all(tenants)

    assert {job.tenant for job in await queue.probe.jobs()} == {"bolt"}
    assert {key.tenant for key in await queue.probe.keys()} == {"bolt"}
    assert {turn.tenant for turn in await queue.probe.turns()} <= {"bolt"}
    assert sum((await tenants.erasable("acme", 100)).values()) == 0
    assert await queue.store.list("bolt", limit=10) == before
    assert {job.job_id for job in await exported(tenants, "bolt")} >= set(theirs)
    assert (await tenants.erasable("bolt", 100))["spend"] == 3, "two calls, and their sum"
    erased = done.erasure.erased
    # What waited is in history for a moment.
    assert (erased["jobs"], erased["history"], erased["keys"], erased["spend"]) == (3, 8, 5, 6)
    assert (done.erasure.number, done.erasure.actor, done.erasure.note) == (1, "ada", "contract ended")
    assert done.erasure.finished_at is not None


async def test_the_first_call_closes_the_tenant_and_erases_nothing(queue: Queue) -> None:
    await worked(queue, "acme", 1)
    await queue.submit(queue.call())
    tenants = admin(queue)
    there = await tenants.erasable("acme", 100)

    first = await erase(tenants)

    assert (first.phase, first.erasure.erased) == (PHASES.ERASING, {})
    assert (await tenants.erasable("acme", 100))["history"] == there["history"]
    refused = await queue.store.submit([queue.call(), queue.call("bolt")])
    assert outcomes(refused) == [SubmitOutcome.WRONG_SHARD.name, SubmitOutcome.CREATED.name]
    assert [job.tenant for job in await queue.claim(await queue.worker())] == ["bolt"], "none of its jobs is started"
    # Nor is it opened by what opens others.
    assert not await queue.operators.resume("tenant", "acme")
    assert not await queue.operators.weigh("acme", 2)
    assert await tenants.reopen("acme") is False


async def test_an_erasure_goes_on_where_it_was_left_in_parts_of_any_size(queue: Queue) -> None:
    await worked(queue, "acme", 25)
    await worked(queue, "bolt", 3)
    await erase(admin(queue))
    part = await erase(admin(queue), 4)
    assert (part.phase, part.erasure.erased["history"]) == (PHASES.ERASING, 4)
    async with queue.another() as other:
        # Somebody else goes on with it.
        done = await erase_all(other.tenants(ErasureTimes()), 4)
    assert (done.erasure.number, done.erasure.erased["history"], done.erasure.erased["keys"]) == (1, 25, 25)


async def test_jobs_that_wait_are_cancelled_and_their_answers_kept_for_whoever_waits(queue: Queue) -> None:
    call, later = queue.call(), queue.call(run_at=await queue.probe.now() + LONG)
    await queue.submit(call, later)
    tenants = admin(queue, linger=LONG)
    await erase(tenants)

    told = await erase(tenants)

    assert {job_id: each.state for job_id, each in told.cancelled.items()} == {
        call.job_id: CANCELLED, later.job_id: CANCELLED,
    }  # fmt: skip
    assert (await erase(tenants)).phase is PHASES.ANSWERED
    assert await queue.state("acme", call.job_id) == CANCELLED
    assert (await erase_all(admin(queue))).erasure.erased["history"] == 2


async def test_jobs_that_run_are_asked_to_end_and_their_outcome_is_erased(queue: Queue) -> None:
    await queue.submit(queue.call())
    worker = await queue.worker()
    [job] = await queue.claim(worker)
    tenants = admin(queue, grace=LONG)
    await erase(tenants)

    told = await erase(tenants)

    assert (told.phase, told.cancelled[job.job_id].state, told.cancelled[job.job_id].worker_id) == (
        PHASES.RUNNING, RUNNING, worker,
    )  # fmt: skip
    assert [each.job_id for each in (await queue.renew(worker)).cancelled] == [job.job_id]
    assert (await erase(tenants)).cancelled == {}, "once"
    assert (await queue.settle(job, response=b"answer")).settled
    await erase_all(tenants)
    assert await queue.probe.jobs() == []


async def test_a_handler_that_submits_for_a_tenant_that_is_erased_meanwhile_is_told_so(queue: Queue) -> None:
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    await erase(admin(queue, grace=LONG))

    child = queue.call(parent_job_id=job.job_id)
    [refused] = await queue.work.settle(
        [Settlement(job.tenant, job.job_id, job.lease, SUCCEEDED, response=b"", children=[child])]
    )

    assert isinstance(refused, RowcallError)
    assert refused.reason == ErrorReason.ERROR_REASON_TENANT_ERASED
    assert "was erased" in refused.message
    assert await queue.state("acme", job.job_id) == RUNNING
    assert await queue.state("acme", child.job_id) is None


async def test_jobs_that_will_not_end_are_ended_and_their_workers_find_the_lease_gone(queue: Queue) -> None:
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    tenants = admin(queue, linger=LONG)
    await erase(tenants)

    told = await erase(tenants)

    assert told.cancelled[job.job_id].state in (RUNNING, CANCELLED)
    assert await queue.state("acme", job.job_id) == CANCELLED, "whoever waits is answered"
    assert await queue.settle(job, response=b"answer", spend=[spent(queue)]) == NOT_OURS
    await erase_all(admin(queue))
    assert await queue.probe.jobs() == []


async def test_what_is_told_late_of_an_erased_tenant_is_not_kept(queue: Queue) -> None:
    calls = [queue.call(), queue.call("bolt")]
    await queue.submit(*calls)
    mine, theirs = sorted(await queue.claim(await queue.worker()), key=lambda job: job.tenant)
    tenants = admin(queue)
    await erase_all(tenants)

    for job in (mine, theirs):
        await queue.settle(job, response=b"answer", spend=[spent(queue)])
        await queue.work.report_progress([], [Spent(Running(job.tenant, job.job_id, job.lease), spent(queue, 2))])

    assert sum((await tenants.erasable("acme", 10)).values()) == 0
    assert (await tenants.erasable("bolt", 10))["spend"] == 3


async def test_what_follows_a_cancelled_job_is_erased_too(queue: Queue) -> None:
    after = await queue.store.method_ids("acme.v1.PrintService/After", Policy())
    await queue.submit(queue.call(on_done=FollowUp(after, 3)))
    done = await erase_all(admin(queue))
    assert done.erasure.erased["jobs"] == 2
    assert await queue.probe.jobs() == []


async def test_it_waits_for_what_was_on_its_way(queue: Queue) -> None:
    tenants = admin(queue, settle=LONG)
    await erase(tenants)
    assert [(await erase(tenants)).phase for _ in range(3)] == [PHASES.SETTLING] * 3
    assert (await erase_all(admin(queue))).phase is PHASES.DONE


async def test_the_receipt_is_told_again_and_a_tenant_is_opened_again_only_then(queue: Queue) -> None:
    tenants = admin(queue)
    await worked(queue, "acme", 1)
    assert await tenants.reopen("acme") is False, "it never was erased"
    assert await tenants.reopen("nobody") is None
    assert await tenants.erase("nobody", limit=1, by=None, note=None) is None
    done = await erase_all(tenants)
    assert (await erase(tenants)).erasure == done.erasure
    assert (await tenants.find(["acme"]))["acme"].erasure == done.erasure

    assert await tenants.reopen("acme", act=ADA)

    await queue.submit(queue.call(request_id="acme-0"))
    [job] = await queue.claim(await queue.worker())
    await queue.settle(job)
    again = await erase_all(tenants)
    assert (again.erasure.number, again.erasure.erased["keys"]) == (2, 1)


async def test_what_the_audit_said_is_erased_and_its_chain_is_whole(queue: Queue) -> None:
    for tenant in ("acme", "bolt"):
        await queue.operators.pause("tenant", tenant, by="eve", note="secret", act=Act(actor="eve"))
    await erase_all(admin(queue))

    [erasure] = await queue.operators.audit_entries("acme", limit=10)
    assert (erasure.content.action, erasure.content.actor) == (ERASE, "ada")
    await queue.work.seal_audit(10)
    links = await queue.operators.audit_chain("acme", after=0, limit=10)
    assert [(link.place, link.erased) for link in links][:1] == [(1, True)]
    walk = Walk("acme", erasures=[erasure.content])
    assert (list(walk.over(links)), walk.erased) == ([], 1), "it verifies"
    assert await queue.operators.audit_unplaced("acme", limit=10) == []
    assert [each.content.action for each in await queue.operators.audit_entries("bolt", limit=10)] == ["tenant.pause"]


async def test_beginning_and_end_are_recorded_with_who_and_what(queue: Queue) -> None:
    await worked(queue, "acme", 2)
    tenants = admin(queue)
    await erase_all(tenants)
    await tenants.reopen("acme", act=ADA)

    opened, ended, begun = await queue.operators.audit_entries(SYSTEM, limit=10)

    assert [each.content.action for each in (begun, ended, opened)] == [
        "tenant.erase", "tenant.erased", "tenant.reopen",
    ]  # fmt: skip
    assert {(each.content.actor, each.content.target) for each in (begun, ended, opened)} == {("ada", "tenants/acme")}
    assert begun.content.reason == "contract ended"
    assert json.loads(ended.content.after or "")["erased"]["history"] == 2


async def test_each_job_is_exported_once_whatever_becomes_of_it_meanwhile(queue: Queue) -> None:
    done = await worked(queue, "acme", 3)
    waiting = [queue.call() for _ in range(4)]
    await queue.submit(*waiting, queue.call("bolt"))
    tenants = admin(queue)
    first = await tenants.export_jobs("acme", after=None, limit=4, limit_bytes=10**6, payloads=True)
    # One that was met already ends, and so do those that were not.
    for job in await queue.claim(await queue.worker()):
        await queue.settle(job, FAILED, error=b"", error_code=3, error_message="no")
    await queue.store.replay("acme", [waiting[3].job_id])

    rest = await tenants.export_jobs("acme", after=first[-1].job_id, limit=10, limit_bytes=10**6, payloads=True)

    assert [row.job_id for row in (*first, *rest)] == [*done, *(call.job_id for call in waiting)]
    assert [row.request for row in (*first, *rest)][3:] == [call.request for call in waiting]
    assert [row.response for row in first[:3]] == [b"answer"] * 3


@pytest.mark.parametrize(("room", "expected"), [(1, [1, 1, 1]), (2 * 30_000, [1, 1, 1]), (3 * 30_000, [2, 1])])
async def test_a_page_holds_no_more_than_it_may_but_one(queue: Queue, room: int, expected: Sequence[int]) -> None:
    await queue.submit(*(queue.call(request=bytes(30_000)) for _ in range(3)))
    tenants = admin(queue)
    sizes: list[int] = []
    after = None
    while page := await tenants.export_jobs("acme", after=after, limit=10, limit_bytes=room, payloads=True):
        sizes.append(len(page))
        after = page[-1].job_id
    assert sizes == expected
    bare = await tenants.export_jobs("acme", after=None, limit=10, limit_bytes=room + 3000, payloads=False)
    assert [(row.request, row.response) for row in bare] == [(None, None)] * 3


async def test_keys_and_what_was_spent_are_exported_in_pages(queue: Queue) -> None:
    ids = await worked(queue, "acme", 5)
    await worked(queue, "bolt", 1)
    tenants = admin(queue)
    first = await tenants.export_keys("acme", after=None, limit=3, act=ADA)
    rest = await tenants.export_keys("acme", after=(first[-1].method_id, first[-1].request_id), limit=3, act=ADA)
    assert [(key.request_id, key.job_id) for key in (*first, *rest)] == [
        (f"acme-{number}", job_id) for number, job_id in enumerate(ids)
    ]
    spend = await tenants.export_spend("acme", after=None, limit=3, act=ADA)
    last = spend[-1]
    spend += await tenants.export_spend("acme", after=(last.job_id, last.lease, last.call), limit=3, act=ADA)
    assert sorted(each.job_id for each in spend) == sorted(ids)
    assert {(each.provider, each.model, each.cost, each.currency) for each in spend} == {
        ("p", "m", Decimal("0.25"), "EUR")
    }
    [total] = await tenants.export_spend_sums("acme", day=None, skip=0, limit=3, act=ADA)
    assert (total.calls, total.input_tokens, total.cost) == (5, Decimal(15), Decimal("1.25"))
    assert await tenants.export_spend_sums("acme", day=total.day, skip=1, limit=3, act=ADA) == []


async def test_each_page_that_gives_something_away_is_recorded(queue: Queue) -> None:
    await worked(queue, "acme", 2)
    tenants = admin(queue)
    await tenants.export_keys("acme", after=None, limit=10, act=ADA)
    await exported(tenants)
    await tenants.export_spend("acme", after=None, limit=10, act=ADA)
    await tenants.export_spend_sums("acme", day=None, skip=0, limit=10, act=ADA)
    await tenants.export_incidents("acme", after=None, limit=10, act=ADA)

    entries = await tenants.export_audit("acme", after=0, until=10**6, limit=10, act=ADA)

    said = [(each.content.action, each.content.actor, json.loads(each.content.after or "{}")) for each in entries]
    assert said == [
        ("tenant.export", "ada", {"of": of, "rows": rows})
        for of, rows in (("keys", 2), ("jobs with payloads", 2), ("spend", 2), ("spend sums", 1))
    ]
    newest = (await queue.operators.audit_entries("acme", limit=1))[0]
    assert json.loads(newest.content.after or "{}") == {"of": "audit", "rows": 4}
    assert await queue.operators.audit_entries("bolt", limit=1) == []


async def test_a_tenant_is_seen_with_its_jobs_counted_to_a_cap(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(5)), queue.call(run_at=await queue.probe.now() + LONG))
    await queue.claim(await queue.worker(), 2)
    await queue.operators.pause("tenant", "acme", by="ann", note="why")
    await queue.operators.weigh("acme", 3)
    await queue.work.hold_paused(2)
    tenants = admin(queue)

    found = await tenants.find(["acme", "bolt", "nobody"])

    assert sorted(found) == ["acme", "bolt"]
    acme = found["acme"]
    assert (acme.state, acme.weight, acme.paused_by, acme.pause_note, acme.erasure) == (1, 3, "ann", "why", None)
    jobs = await tenants.live_jobs("acme", 100)
    assert (jobs.scheduled, jobs.ready, jobs.held, jobs.running, jobs.waiting) == (1, 3, 2, 2, 0)
    assert not jobs.capped
    few = await tenants.live_jobs("acme", 2)
    assert (few.capped, few.running, few.scheduled + few.ready + few.waiting <= 2) == (True, 2, True)
    assert (await tenants.erasable("acme", 100))["jobs"] == 6
    assert (await tenants.erasable("acme", 4))["jobs"] == 4
