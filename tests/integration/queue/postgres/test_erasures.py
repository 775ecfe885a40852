"""A tenant's erasure on Postgres: what transactions of others may still write of it, what comes late, and traces in incidents."""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from google.rpc.code_pb2 import Code
from psycopg import errors

from rowcall.incidents.model import Noted
from rowcall.queue.tenants import Erased, ErasurePhase, TenantAdmin
from tests.fix_queue import PostgresQueue
from tests.support.probe import ErasureTimes
from tests.support.queues import METHOD
from tests.support.waiting import until

SUBMIT = "select rowcall.submit_v1('acme', %s, '')"


async def erase(tenants: TenantAdmin) -> Erased:
    erased = await tenants.erase("acme", limit=1000, by="ada", note=None)
    assert erased is not None
    return erased


async def erased(tenants: TenantAdmin) -> Erased:
    last: list[Erased] = []

    async def done() -> bool:
        last[:] = [await erase(tenants)]
        return last[0].phase is ErasurePhase.DONE

    await until(done)
    return last[0]


@pytest.fixture
async def published(queue: PostgresQueue) -> PostgresQueue:
    """METHOD is known to submit_v1."""
    await queue.admin.execute(
        "update rowcall.method set request_type = 'a', response_type = 'b', policy_id = %s, queue_id = %s, lane = 3",
        [queue.ids.policy_id, queue.ids.queue_id],
    )
    return queue


@pytest.mark.straight("a transaction of its own is left open")
async def test_it_is_not_done_while_a_transaction_is_open_that_may_write_something_of_it(
    published: PostgresQueue,
) -> None:
    tenants = published.process.tenants(ErasureTimes())
    async with await psycopg.AsyncConnection.connect(published.logins.submitter) as service:
        await service.execute(SUBMIT, [METHOD])
        phases = [(await erase(tenants)).phase for _ in range(5)]
        assert phases[2:] == [ErasurePhase.OPEN] * 3
        await service.commit()
        done = await erased(tenants)
    assert done.erasure.erased["jobs"] == 1, "what it wrote"
    assert await published.probe.jobs() == []


@pytest.mark.straight("a transaction of its own is left open")
async def test_what_a_snapshot_from_before_lets_in_is_erased_by_the_next_erasure(published: PostgresQueue) -> None:
    tenants = published.process.tenants(ErasureTimes())
    async with await psycopg.AsyncConnection.connect(published.logins.submitter) as service:
        await service.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        # It has a snapshot and has written nothing: nobody can see it.
        await service.execute("select 1")
        first = await erased(tenants)
        await service.execute(SUBMIT, [METHOD])
        await service.commit()
    assert len(await published.probe.jobs()) == 1
    second = await erased(tenants)
    assert (first.erasure.number, second.erasure.number, second.erasure.erased["jobs"]) == (1, 2, 1)
    assert await published.probe.jobs() == []


async def test_a_service_that_submits_for_an_erased_tenant_is_told_so(published: PostgresQueue) -> None:
    await erase(published.process.tenants(ErasureTimes()))
    async with await psycopg.AsyncConnection.connect(published.logins.submitter) as service:
        with pytest.raises(errors.ObjectNotInPrerequisiteState) as refused:
            await service.execute(SUBMIT, [METHOD])
    said = refused.value.diag
    assert said.message_primary == "submit_v1: the tenant 'acme' was erased, or is being erased"
    assert said.message_hint == "It takes no calls until an admin opens it again (rowcall tenants reopen)."


async def test_an_incident_has_no_trace_of_an_erased_tenants_job(queue: PostgresQueue) -> None:

    traces = {name: uuid4().hex for name in ("acme", "bolt")}
    await queue.submit(*(queue.call(name, traceparent=f"00-{trace}-{'1' * 16}-01") for name, trace in traces.items()))
    now = time.monotonic()
    await queue.operators.record_incidents(
        [
            Noted(
                fingerprint=name * 8, service="worker", method=METHOD, code=Code.INTERNAL, kind="ValueError", location="",
                count=1, first=now, last=now, trace_id=trace, version="1",
            )
            for name, trace in traces.items()
        ]
    )  # fmt: skip
    tenants = queue.process.tenants(ErasureTimes())
    exported = await tenants.export_incidents("acme", after=None, limit=10)
    assert [(each.fingerprint, each.trace_id) for each in exported] == [("acme" * 8, traces["acme"])]

    done = await erased(tenants)

    kept = {each.fingerprint[:4]: each.trace_id for each in await queue.operators.incidents(limit=10)}
    assert kept == {"acme": None, "bolt": traces["bolt"]}
    assert done.erasure.erased["incidents"] == 1


async def test_history_is_not_walked_over_again_where_a_snapshot_keeps_what_is_gone(
    queue: PostgresQueue,
) -> None:

    await queue.submit(*(queue.call() for _ in range(600)))
    for job in await queue.claim(await queue.worker(), 600):
        await queue.settle(job)
    tenants = queue.process.tenants(ErasureTimes(linger=timedelta(0)))
    part = None
    for _ in range(4):
        part = await tenants.erase("acme", limit=100, by=None, note=None)
    assert part is not None
    assert part.erasure.erased["history"] == 300
    after = await queue.value("select history_after from rowcall.erasure where tenant = 'acme'")
    first = await queue.value("select min(job_id::text)::uuid from rowcall.job_history where tenant = 'acme'")
    assert after < first
