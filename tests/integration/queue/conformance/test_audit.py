"""What every implementation of the queue keeps to: whatever an operator does leaves an entry, and entries become chains."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from rowcall.audit.chain import ERASE, FaultKind, Walk
from rowcall.audit.model import SYSTEM, Act, Entry
from rowcall.queue.model import EVERY_JOB
from tests.support.queues import FAILED, METHOD, Queue
from tests.support.waiting import until

ANN = Act(actor="ann", credential="jwt idp", roles=("operator",), reason="drill", trace_id="a" * 32)


async def entries(queue: Queue, tenant: str = "acme") -> list[Entry]:
    return await queue.operators.audit_entries(tenant, limit=1000)


async def sealed(queue: Queue, tenant: str = "acme") -> list[Entry]:
    """All entries of a tenant, once they have their places."""

    async def all_placed() -> bool:
        await queue.work.seal_audit(1000)
        return (await queue.operators.audit_head(tenant)).unsealed == 0

    await until(all_placed)
    return await entries(queue, tenant)


async def failed(queue: Queue) -> UUID:
    call = queue.call()
    await queue.submit(call)
    [job] = await queue.claim(await queue.worker())
    await queue.settle(job, FAILED, error=b"e", error_code=13, error_message="no")
    return call.job_id


async def test_a_cancellation_is_recorded_with_who_and_what_it_was(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    assert await queue.store.cancel("acme", call.job_id, act=ANN)
    [entry] = await entries(queue)
    said = entry.content
    assert (said.actor, said.credential, said.roles) == ("ann", "jwt idp", "operator")
    assert (said.action, said.target) == ("job.cancel", f"tenants/acme/operations/{call.job_id}")
    assert json.loads(said.before or "")["state"] == "READY"
    assert json.loads(said.after or "")["state"] == "CANCELLED"
    assert (said.reason, said.trace_id) == ("drill", "a" * 32)


async def test_a_running_job_that_is_cancelled_is_marked_and_recorded_so(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    await queue.claim(await queue.worker())
    await queue.store.cancel("acme", call.job_id, act=ANN)
    [entry] = await entries(queue)
    assert json.loads(entry.content.before or "") == {"state": "RUNNING", "cancel_requested": False}
    assert json.loads(entry.content.after or "") == {"state": "RUNNING", "cancel_requested": True}


async def test_many_that_are_cancelled_have_an_entry_each(queue: Queue) -> None:
    calls = [queue.call() for _ in range(5)]
    await queue.submit(*calls)
    cancelled = await queue.store.cancel_many("acme", [each.job_id for each in calls], act=ANN)
    assert len(cancelled) == 5
    assert {each.content.target.rpartition("/")[2] for each in await entries(queue)} == {
        str(each.job_id) for each in calls
    }


async def test_replays_resolutions_and_deletions_are_recorded(queue: Queue) -> None:
    replayed, resolved = await failed(queue), await failed(queue)
    await queue.store.replay("acme", [replayed], act=ANN)
    await queue.store.resolve("acme", [resolved], by="ann", note="known", act=ANN)
    assert await queue.store.delete("acme", resolved, act=ANN)
    deleted, resolution, retry = (each.content for each in await entries(queue))
    assert (retry.action, json.loads(retry.after or "")) == ("job.retry", {"state": "READY"})
    assert (resolution.action, resolution.reason) == ("job.resolve", "known"), "the note is the reason"
    assert deleted.action == "job.delete"
    assert json.loads(deleted.before or "")["state"] == "RESOLVED"
    assert deleted.after is None


@pytest.mark.parametrize(
    ("kind", "name", "chain"), [("queue", "default", SYSTEM), ("method", METHOD, SYSTEM), ("tenant", "acme", "acme")]
)
async def test_pauses_are_recorded_in_the_chain_of_who_they_are_of(
    queue: Queue, kind: str, name: str, chain: str
) -> None:
    await queue.submit(queue.call())
    await queue.operators.pause(kind, name, by="ann", note="storm", act=ANN)
    await queue.operators.resume(kind, name, act=ANN)
    resumed, paused = (each.content for each in await entries(queue, chain))
    assert (paused.action, paused.target, paused.reason) == (f"{kind}.pause", f"{kind}s/{name}", "storm")
    assert json.loads(paused.before or "") == {"paused": False}
    assert json.loads(paused.after or "")["by"] == "ann"
    assert (resumed.action, resumed.reason) == (f"{kind}.resume", "drill")
    assert json.loads(resumed.before or "")["paused"]
    assert json.loads(resumed.after or "") == {"paused": False}


async def test_a_weight_is_recorded_with_the_one_before(queue: Queue) -> None:
    await queue.submit(queue.call())
    await queue.operators.weigh("acme", 3, act=ANN)
    [entry] = await entries(queue)
    assert (entry.content.action, entry.content.before, entry.content.after) == (
        "tenant.weight",
        '{"weight": 1}',
        '{"weight": 3}',
    )


async def test_reads_of_payloads_are_recorded(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    await queue.operators.record_reads("acme", [call.job_id], ANN)
    [entry] = await entries(queue)
    assert (entry.content.action, entry.content.target) == ("payload.read", f"tenants/acme/operations/{call.job_id}")


async def test_what_was_not_done_is_not_recorded(queue: Queue) -> None:
    other = queue.call("bolt")
    await queue.submit(other)
    assert await queue.store.cancel("acme", other.job_id, act=ANN) is None
    assert not await queue.store.delete("acme", other.job_id, act=ANN)
    assert await queue.store.replay("acme", [other.job_id], act=ANN) == {}
    assert await queue.store.resolve("acme", [other.job_id], by=None, note=None, act=ANN) == []
    assert not await queue.operators.pause("queue", "nothing", by=None, note=None, act=ANN)
    assert [await entries(queue, tenant) for tenant in ("acme", "bolt", SYSTEM)] == [[], [], []]


async def test_an_action_of_nobody_is_recorded_all_the_same(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    await queue.store.cancel("acme", call.job_id)
    [entry] = await entries(queue)
    assert (entry.content.action, entry.content.actor) == ("job.cancel", None)


async def test_entries_get_places_without_a_gap_in_the_chain_of_their_tenant(queue: Queue) -> None:
    calls = [queue.call(tenant) for tenant in ("acme", "bolt") for _ in range(20)]
    await queue.submit(*calls)
    await asyncio.gather(*(queue.store.cancel(each.tenant, each.job_id, act=ANN) for each in calls))
    for tenant in ("acme", "bolt"):
        found = await sealed(queue, tenant)
        assert sorted(each.place or 0 for each in found) == list(range(1, 21))
        walk = Walk(tenant)
        assert list(walk.over(await queue.operators.audit_chain(tenant, after=0, limit=100))) == []
        head = await queue.operators.audit_head(tenant)
        assert (head.place, head.hash, head.unsealed) == (20, walk.hash, 0)


async def test_sealing_goes_on_where_it_ended_and_does_nothing_twice(queue: Queue) -> None:
    for round_ in range(3):
        calls = [queue.call() for _ in range(4)]
        await queue.submit(*calls)
        await queue.store.cancel_many("acme", [each.job_id for each in calls], act=ANN)
        found = await sealed(queue)
        assert sorted(each.place or 0 for each in found) == list(range(1, 4 * (round_ + 1) + 1))
    assert await queue.work.seal_audit(1000) == []


async def test_of_several_that_seal_at_once_no_place_is_given_twice(queue: Queue) -> None:
    calls = [queue.call() for _ in range(200)]
    await queue.submit(*calls)
    await queue.store.cancel_many("acme", [each.job_id for each in calls], act=ANN)

    async def done() -> bool:
        await asyncio.gather(*(queue.work.seal_audit(7) for _ in range(4)))
        return (await queue.operators.audit_head("acme")).place == 200

    await until(done)
    assert list(Walk("acme").over(await queue.operators.audit_chain("acme", after=0, limit=1000))) == []


async def test_entries_are_listed_by_page_and_by_what_is_asked_for(queue: Queue) -> None:
    calls = [queue.call() for _ in range(6)]
    await queue.submit(*calls)
    for number, call in enumerate(calls):
        await queue.store.cancel("acme", call.job_id, act=Act(actor="ann" if number % 2 else "bob"))
    await queue.operators.weigh("acme", 2, act=ANN)
    ask: Callable[..., Awaitable[list[Entry]]] = queue.operators.audit_entries
    first = await ask("acme", limit=4)
    rest = await ask("acme", limit=4, below=first[-1].number)
    assert [each.content.action for each in (*first, *rest)] == ["tenant.weight", *["job.cancel"] * 6]
    assert {each.content.actor for each in await ask("acme", limit=10, actor="bob")} == {"bob"}
    assert len(await ask("acme", limit=10, action="job")) == 6
    assert len(await ask("acme", limit=10, action="job.cancel")) == 6
    assert await ask("acme", limit=10, action="jo") == []
    [one] = await ask("acme", limit=10, target=f"tenants/acme/operations/{calls[3].job_id}")
    assert one.content.actor == "ann"
    assert await queue.store.find("acme", EVERY_JOB, limit=10) != [], "the jobs are there as before"


async def cancelled(queue: Queue, count: int) -> None:
    """So many entries, sealed."""
    calls = [queue.call() for _ in range(count)]
    await queue.submit(*calls)
    await queue.store.cancel_many("acme", [each.job_id for each in calls], act=ANN)
    await sealed(queue)


async def verified(queue: Queue) -> tuple[list[FaultKind], int]:
    """What is wrong with acme's chain, and how many of its entries were erased."""
    erasures = await queue.operators.audit_entries("acme", limit=1000, action=ERASE)
    walk = Walk("acme", erasures=[each.content for each in erasures])
    faults = [fault.kind for fault in walk.over(await queue.operators.audit_chain("acme", after=0, limit=1000))]
    return faults, walk.erased


async def test_what_entries_say_is_erased_and_their_chain_can_still_be_verified(queue: Queue) -> None:
    await cancelled(queue, 5)
    head = await queue.operators.audit_head("acme")
    first = await queue.operators.erase_audit("acme", after=0, limit=3, act=ANN)
    assert (first.place, first.erased, first.remains) == (3, 3, True)
    rest = await queue.operators.erase_audit("acme", after=first.place, limit=3, act=ANN)
    assert (rest.place, rest.erased, rest.remains) == (5, 2, False)
    left = await sealed(queue)
    assert [(each.content.action, each.content.actor) for each in left] == [(ERASE, "ann")] * 2, "by whom, and no more"
    assert json.loads(left[1].content.after or "") == {"count": 3, "places": [[1, 3]]}
    chain = await queue.operators.audit_chain("acme", after=0, limit=1000)
    assert [(link.place, link.content is None) for link in chain] == [(n, n < 6) for n in range(1, 8)]
    assert chain[head.place - 1].hash == head.hash, "an earlier head is good for it still"
    assert await verified(queue) == ([], 5)


async def test_entries_of_erasures_are_not_erased_and_what_came_since_is(queue: Queue) -> None:
    await cancelled(queue, 2)
    await queue.operators.erase_audit("acme", after=0, limit=10, act=ANN)
    await cancelled(queue, 2)
    again = await queue.operators.erase_audit("acme", after=0, limit=10, act=ANN)
    assert (again.place, again.erased, again.remains) == (5, 2, False)
    nothing = await queue.operators.erase_audit("acme", after=0, limit=10, act=ANN)
    assert (nothing.place, nothing.erased, nothing.remains) == (0, 0, False)
    latest, earlier = await sealed(queue)
    assert json.loads(latest.content.after or "") == {"count": 2, "places": [[4, 5]]}
    assert json.loads(earlier.content.after or "")["places"] == [[1, 2]]
    assert await verified(queue) == ([], 4)


async def test_what_has_no_place_yet_remains_until_it_is_sealed(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    await queue.store.cancel("acme", call.job_id, act=ANN)
    early = await queue.operators.erase_audit("acme", after=0, limit=10, act=ANN)
    assert (early.erased, early.remains) == (0, True)
    await sealed(queue)
    late = await queue.operators.erase_audit("acme", after=0, limit=10, act=ANN)
    assert (late.erased, late.remains) == (1, False)


async def test_another_tenants_entries_are_not_erased(queue: Queue) -> None:
    await cancelled(queue, 1)
    assert (await queue.operators.erase_audit("other", after=0, limit=10, act=ANN)).erased == 0
    assert [each.content.action for each in await entries(queue)] == ["job.cancel"]
