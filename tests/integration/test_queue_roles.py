"""Logins that were granted a service's role can do what the service does, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from tests.fix_queue import Logins, Queue

GATEWAY = {
    "adopt_tenant", "cancel_job", "delete_job", "list_jobs", "method_id", "policy_id", "queue_id", "read_jobs",
    "read_outcomes", "shard_facts", "submit_jobs", "tenant_route",
}  # fmt: skip
WORKER = {
    "bury_workers", "claim_jobs", "expire_keys", "make_history_days", "method_id", "policies", "promote_jobs", "queues",
    "register_worker", "release_jobs", "renew_worker", "rescue_jobs", "retire_worker", "settle_jobs", "shard_facts",
}  # fmt: skip

_MAY_EXECUTE = """
select p.proname
from pg_proc p
where p.pronamespace = 'rowcall'::regnamespace and has_function_privilege(%s, p.oid, 'execute')
"""


@pytest.mark.parametrize(
    ("role", "functions"),
    [("rowcall_gateway", GATEWAY), ("rowcall_worker", WORKER), ("rowcall_reader", set()), ("test_nobody", set())],
)
async def test_a_role_may_execute_its_functions_and_no_others(queue: Queue, role: str, functions: set[str]) -> None:
    rows = await (await queue.admin.execute(_MAY_EXECUTE, [role])).fetchall()
    assert {row[0] for row in rows} == functions


async def test_no_role_has_rights_on_tables_or_sequences(queue: Queue) -> None:
    """Except the reader, on the one view."""
    rows = await queue.admin.execute(
        """
        select r.rolname, c.relname
        from pg_class c
        cross join (values ('rowcall_gateway'), ('rowcall_worker'), ('rowcall_reader'), ('public')) as r (rolname)
        where c.relnamespace = 'rowcall'::regnamespace
          and case
            when c.relkind in ('r', 'p', 'v') then
              has_table_privilege(r.rolname, c.oid, 'select, insert, update, delete, truncate, references, trigger')
              or has_any_column_privilege(r.rolname, c.oid, 'select, insert, update, references')
            when c.relkind = 'S' then has_sequence_privilege(r.rolname, c.oid, 'usage, select, update')
          end
        """
    )
    assert await rows.fetchall() == [("rowcall_reader", "jobs")]


async def test_every_function_of_ours_that_acts_for_the_owner_has_a_fixed_search_path(queue: Queue) -> None:
    rows = await queue.admin.execute(
        """
        select p.proname
        from pg_proc p
        where p.pronamespace = 'rowcall'::regnamespace
          and p.prosecdef
          and not 'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))
        """
    )
    assert await rows.fetchall() == []


async def test_functions_that_come_later_are_nobodys_until_they_are_granted(queue: Queue) -> None:
    await queue.admin.execute("set role rowcall_owner")
    await queue.admin.execute("create function rowcall.later() returns int language sql as 'select 1'")
    await queue.admin.execute("reset role")
    assert not await queue.value("select has_function_privilege('rowcall_gateway', 'rowcall.later()', 'execute')")


async def test_a_gateway_cannot_claim_nor_a_worker_submit_nor_either_read_tables(
    queue: Queue, gateway: psycopg.AsyncConnection[object], worker: psycopg.AsyncConnection[object]
) -> None:
    claim = "select rowcall.claim_jobs(gen_random_uuid(), 1, '{1}', '{0,0,0,0}', 1)"
    read = "select rowcall.read_jobs('{acme}', array[gen_random_uuid()], true, true)"
    for connection, statement in (
        (gateway, claim),
        (worker, read),
        (worker, "select rowcall.adopt_tenant('eve', 1)"),
        (gateway, "select * from rowcall.job"),
        (worker, "select * from rowcall.job"),
        (worker, "select * from rowcall.jobs"),
        (gateway, "create table rowcall.mine ()"),
        (gateway, "set role rowcall_owner"),
        (gateway, "select nextval('rowcall.frontier_1_3')"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(statement.encode())
    await worker.execute(claim.encode())
    await gateway.execute(read.encode())


@pytest.mark.straight("it puts names into a session, which would stay in one of the pooler's")
async def test_names_in_a_session_do_not_reach_into_functions(queue: Queue, logins: Logins) -> None:
    """Whatever a login puts before pg_catalog, functions that act for the owner use what they mean."""
    call = queue.call()
    await queue.submit(call)
    await queue.admin.execute(
        """
        create schema evil;
        grant usage on schema evil to public;
        create function evil.clock_timestamp() returns timestamptz return timestamptz '2000-01-01'
        """
    )
    async with await psycopg.AsyncConnection.connect(logins.gateway, autocommit=True) as connection:
        await connection.execute("create temporary table job (like pg_class)")
        await connection.execute("set search_path = evil, pg_temp, pg_catalog")
        rows = await connection.execute("select clock_timestamp() < '2000-01-02'")
        assert await rows.fetchone() == (True,), "the session itself is taken in"
        rows = await connection.execute("select * from rowcall.cancel_job('acme', %s, 'e', false)", [call.job_id])
        assert await rows.fetchall() == [(6, None)]
    assert await queue.value("select finished_at > '2020-01-01' from rowcall.job_history")


async def test_a_person_reads_the_view(queue: Queue) -> None:
    call = queue.call(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", labels={"a": "b"})
    await queue.submit(call, queue.call())
    [job] = await queue.claim(await queue.worker("printer-1"), 1)
    await queue.settle(job, response=b"12345")
    await queue.admin.execute("set role rowcall_reader")
    rows = await queue.admin.execute(
        "select name, method, queue, state, priority, attempt, trace_id, worker, labels, response_bytes from rowcall.jobs"
        " order by name"
    )
    assert await rows.fetchone() == (
        f"tenants/acme/operations/{call.job_id}",
        "acme.v1.PrintService/Print",
        "default",
        "SUCCEEDED",
        "NORMAL",
        1,
        "0af7651916cd43dd8448eb211c80319c",
        "printer-1",
        {"a": "b"},
        5,
    )


@pytest.fixture
async def gateway(logins: Logins) -> AsyncIterator[psycopg.AsyncConnection[object]]:
    async with await psycopg.AsyncConnection.connect(logins.gateway, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def worker(logins: Logins) -> AsyncIterator[psycopg.AsyncConnection[object]]:
    async with await psycopg.AsyncConnection.connect(logins.worker, autocommit=True) as connection:
        yield connection


async def test_every_call_of_the_services_is_within_their_rights(queue: Queue) -> None:
    """The rest of the suite runs with these logins too; this names each call once."""
    call = queue.call(request_id="k")
    await queue.store.fingerprint_key()
    await queue.submit(call)
    await queue.store.submit_atomic([queue.call()])
    await queue.store.read([("acme", call.job_id)], request=True, response=True)
    await queue.store.outcomes([("acme", call.job_id)])
    await queue.store.list("acme", limit=1)
    await queue.store.cancel("acme", call.job_id)
    await queue.store.delete("acme", call.job_id)
    work, worker = queue.work, uuid4()
    await work.register_worker(worker, "w", timedelta(minutes=1))
    await work.method_id("a.B/C")
    await work.policies()
    await work.queues()
    jobs = await queue.claim(worker)
    await work.release(jobs)
    await queue.settle((await queue.claim(worker))[0])
    await work.promote(1)
    await work.bury_workers()
    await work.rescue(1)
    await work.expire_keys(1)
    assert await work.make_history_days(16) == 6, "two more days of three retentions"
    await work.retire_worker(worker)
