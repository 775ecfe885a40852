"""Actions in SQL: the queries of docs/actions.md, as they stand there, and what a tenant's people see of it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from google.rpc.code_pb2 import Code
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rowcall.queue.model import ClaimedJob
from rowcall.queue.spend import Spend, SpendKind
from rowcall.queue.tenants import ErasurePhase
from tests.fix_queue import PostgresQueue
from tests.support.pages import queries
from tests.support.probe import ErasureTimes
from tests.support.queues import CANCELLED, FAILED, SCHEDULED
from tests.support.waiting import until

QUERIES: Final = queries("docs/actions.md")
IN_PAGE: Final = "0af7651916cd43dd8448eb211c80319c", "0196a4c5-7a2e-7c3f-9e1b-3f0f5c9d2b11"
CALLER: Final = f"00-{IN_PAGE[0]}-b7ad6b7169203331-01"
SPANS: Final = ("00f067aa0ba902b7", "b9c7c989f97918e1", "d5dbde6a8d5dbde6")


async def asked(queue: PostgresQueue, login: str, query: str) -> list[dict[str, Any]]:
    """What a login is answered."""
    async with await psycopg.AsyncConnection.connect(
        queue.logins.straight(login), autocommit=True, row_factory=dict_row
    ) as connection:
        return await (await connection.execute(query.encode())).fetchall()


@pytest.fixture
async def jobs(queue: PostgresQueue) -> list[ClaimedJob]:
    """A job that is retried once and pays, a child of its second attempt that fails, and one of bolt's in the same trace."""
    await queue.submit(queue.call(traceparent=CALLER, actor="ann"))
    worker = await queue.worker("w-1")
    [first] = await queue.claim(worker)
    cost = Spend(
        1, SpendKind.MODEL, queue.ids.method_id, "oracle", "m", UUID(IN_PAGE[0]), cost=Decimal("0.50"), currency="EUR"
    )
    await queue.settle(
        first, SCHEDULED, error=b"e", error_code=Code.UNAVAILABLE, error_message="Not yet.", delay=timedelta(0),
        span_id=SPANS[0], spend=[cost], location="a:b:1",
    )  # fmt: skip
    await queue.work.promote(10)
    [second] = await queue.claim(worker)
    above = f"00-{IN_PAGE[0]}-{SPANS[1]}-01"
    await queue.submit(
        queue.call(traceparent=above, parent_job_id=first.job_id), queue.call("bolt", traceparent=CALLER)
    )
    await queue.settle(second, span_id=SPANS[1])
    for job in await queue.claim(worker):
        await queue.settle(job, FAILED if job.tenant == "acme" else CANCELLED, error_code=Code.NOT_FOUND, error=b"e", error_message="Gone.", span_id=SPANS[2])  # fmt: skip
    await queue.admin.execute(
        "insert into rowcall.audit (tenant, actor, action, target) values ('acme', 'olga', 'job.resolve', %s)",
        [f"tenants/acme/operations/{first.job_id}"],
    )
    return [first, second]


@pytest.mark.parametrize("query", QUERIES)
async def test_one_query_of_the_page_returns_the_whole_chain(
    queue: PostgresQueue, jobs: list[ClaimedJob], query: str
) -> None:
    """For its trace, and for one of its jobs."""
    assert any(each in query for each in IN_PAGE)
    rows = await asked(queue, "test_auditor", query.replace(IN_PAGE[1], str(jobs[0].job_id)))
    told = [(row["kind"], row["status"]) for row in rows if row["kind"] != "WAIT"]
    assert sorted(told) == sorted(
        [
            ("JOB", "SUCCEEDED"), ("ATTEMPT", "RETRIED"), ("MODEL_CALL", None), ("ATTEMPT", "SUCCEEDED"), ("JOB", "FAILED"),
            ("ATTEMPT", "FAILED"), ("OPERATOR", "DONE"), ("JOB", "CANCELLED"), ("ATTEMPT", "CANCELLED"),
        ]
    )  # fmt: skip
    assert [row["took"] for row in rows if row["kind"] == "JOB"] > [timedelta(0)]
    assert {row["message"] for row in rows if row["kind"] == "ATTEMPT"} == {None, "Not yet.", "Gone."}


async def test_each_is_below_what_caused_it(queue: PostgresQueue, jobs: list[ClaimedJob]) -> None:
    rows = await asked(queue, "test_auditor", f"select * from rowcall.action('{IN_PAGE[0]}') where tenant = 'acme'")
    root = f"tenants/acme/operations/{jobs[0].job_id}"
    parents = {row["node"]: row["parent"] for row in rows}
    kinds = {row["node"]: row["kind"] for row in rows}
    assert parents[root] is None
    assert parents[SPANS[0]] == parents[SPANS[1]] == root
    [child] = [node for node, kind in kinds.items() if kind == "JOB" and node != root]
    assert (parents[child], parents[SPANS[2]]) == (SPANS[1], child)
    assert [parents[node] for node, kind in kinds.items() if kind == "MODEL_CALL"] == [SPANS[0]]
    assert [parents[node] for node, kind in kinds.items() if kind == "OPERATOR"] == [root]
    [paid] = [row for row in rows if row["kind"] == "MODEL_CALL"]
    assert paid["attributes"]["rowcall.cost.amount"] == "0.5"


async def test_a_tenants_people_see_their_own_without_operators_and_places_of_code(
    queue: PostgresQueue, jobs: list[ClaimedJob]
) -> None:
    await queue.admin.execute("select rowcall.allow_reader('test_acme', 'acme')")
    query = f"select * from rowcall.tenant_action('{IN_PAGE[0]}')"
    rows = await asked(queue, "test_acme", query)
    assert {row["tenant"] for row in rows} == {"acme"}
    assert {row["kind"] for row in rows} == {"JOB", "WAIT", "ATTEMPT", "MODEL_CALL"}
    everything = await asked(queue, "test_auditor", f"select * from rowcall.action('{IN_PAGE[0]}')")
    assert any("rowcall.location" in row["attributes"] for row in everything)
    assert not any("rowcall.location" in row["attributes"] for row in rows)
    await queue.admin.execute("select rowcall.forbid_reader('test_acme', 'acme')")
    assert await asked(queue, "test_acme", query) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await asked(queue, "test_acme", QUERIES[0])


async def test_what_another_tenant_spent_in_a_trace_is_its_own(queue: PostgresQueue, jobs: list[ClaimedJob]) -> None:
    """Also where its job is gone."""
    await queue.admin.execute("update rowcall.spend_entry set tenant = 'bolt', job_id = gen_random_uuid()")
    await queue.admin.execute("select rowcall.allow_reader('test_acme', 'acme')")
    rows = await asked(queue, "test_acme", f"select kind from rowcall.tenant_action('{IN_PAGE[0]}')")
    assert "MODEL_CALL" not in {row["kind"] for row in rows}
    rows = await asked(queue, "test_auditor", f"select kind from rowcall.action('{IN_PAGE[0]}')")
    assert "MODEL_CALL" in {row["kind"] for row in rows}


def _span(tenant: str, number: int) -> dict[str, object]:
    """As an exporter tells it."""
    return {
        "tenant": tenant, "trace": IN_PAGE[0], "span": f"{number:016x}", "parent": "f" * 16, "kind": 1, "status": 2,
        "started": 1.5, "took": 0.25, "name": "GetJob", "message": "OVER", "attributes": {"n": number},
    }  # fmt: skip


async def test_a_tenants_spans_are_exported_in_pages_and_erased_with_it(queue: PostgresQueue) -> None:
    await queue.submit(queue.call(), queue.call("bolt"))
    spans = [_span(tenant, number) for tenant in ("acme", "bolt", "nobody") for number in range(1, 4)]
    for _ in range(2):
        await queue.admin.execute("select rowcall.record_activity(%s)", [Jsonb(spans)])
    tenants = queue.process.tenants(ErasureTimes())
    first = await tenants.export_activity("acme", after=None, limit=2)
    rest = await tenants.export_activity("acme", after=(first[-1].trace_id, first[-1].span_id), limit=2)
    assert [(each.span_id, each.parent_span_id) for each in (*first, *rest)] == [(1, -1), (2, -1), (3, -1)]
    one = first[0]
    assert (one.trace_id.hex, one.kind, one.status, one.duration) == (IN_PAGE[0], 1, 2, timedelta(seconds=0.25))
    assert (one.name, one.message, one.attributes) == ("GetJob", "OVER", {"n": 1})
    assert [each.content.action for each in await queue.operators.audit_entries("acme", limit=5)] == [
        "tenant.export"
    ] * 2
    assert (await tenants.erasable("acme", 10))["activity"] == 3

    async def erased() -> bool:
        done = await tenants.erase("acme", limit=2, by="ada", note="contract ended")
        assert done is not None
        return done.phase is ErasurePhase.DONE

    await until(erased)
    rows = await queue.admin.execute("select tenant, count(*) from rowcall.activity group by tenant")
    assert await rows.fetchall() == [("bolt", 3)]


async def test_days_of_activity_are_kept_for_a_week(queue: PostgresQueue) -> None:
    """Made and dropped with those of history, the one they fall on by the database's clock."""
    while await queue.work.drop_history_day():
        pass
    # The owner's, as every day is.
    await queue.admin.execute("set role rowcall_owner")
    for age in (8, 7):
        first = await queue.value("select (now() at time zone 'UTC')::date - %s::integer", age)
        await queue.admin.execute(
            f"create table rowcall.activity_{first:%Y%m%d} partition of rowcall.activity for values from ('{first}') to "
            f"('{first + timedelta(days=1)}')".encode()
        )
    oldest = await queue.value("select (now() at time zone 'UTC')::date - 8")
    assert await queue.work.drop_history_day() == f"activity_{oldest:%Y%m%d}"
    assert await queue.work.drop_history_day() is None
