"""Logins that were granted a service's role can do what the service does, and nothing else: rights.toml says which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from rowcall.catalogue.model import Policy
from rowcall.migrations import HISTORY_DAYS
from rowcall.queue.model import EVERY_JOB, Progress, Running
from rowcall.queue.postgres.faults import fault
from tests.fix_queue import Logins, PostgresQueue
from tests.support.queues import CANCELLED


async def test_every_function_of_ours_that_acts_for_the_owner_has_a_fixed_search_path(queue: PostgresQueue) -> None:
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


async def test_functions_that_come_later_are_nobodys_until_they_are_granted(queue: PostgresQueue) -> None:
    await queue.admin.execute("set role rowcall_owner")
    await queue.admin.execute("create function rowcall.later() returns int language sql as 'select 1'")
    await queue.admin.execute("reset role")
    assert not await queue.value("select has_function_privilege('rowcall_gateway', 'rowcall.later()', 'execute')")


async def test_a_gateway_cannot_claim_nor_a_worker_read_nor_either_see_tables(
    queue: PostgresQueue, gateway: psycopg.AsyncConnection[object], worker: psycopg.AsyncConnection[object]
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
async def test_names_in_a_session_do_not_reach_into_functions(queue: PostgresQueue, logins: Logins) -> None:
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
        rows = await connection.execute(
            "select * from rowcall.cancel_recorded('acme', array[%s], 'e', null)", [call.job_id]
        )
        assert await rows.fetchall() == [(call.job_id, CANCELLED, None, None)]
    assert await queue.value("select finished_at > '2020-01-01' from rowcall.job_history")


async def test_a_person_reads_the_view(queue: PostgresQueue) -> None:
    call = queue.call(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", labels={"a": "b"})
    await queue.submit(call, queue.call())
    [job] = await queue.claim(await queue.worker("printer-1"), 1)
    await queue.settle(job, response=b"12345")
    await queue.admin.execute("set role rowcall_auditor")
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


async def test_every_call_of_the_services_is_within_their_rights(queue: PostgresQueue) -> None:
    """The rest of the suite runs with these logins too; this names each call once."""
    call = queue.call(request_id="k")
    await queue.store.fingerprint_key()
    await queue.submit(call)
    await queue.store.submit_atomic([queue.call()])
    await queue.store.read([("acme", call.job_id)], request=True, response=True)
    await queue.store.outcomes([("acme", call.job_id)])
    await queue.store.list("acme", EVERY_JOB, limit=1)
    await queue.store.find("acme", EVERY_JOB, limit=1)
    await queue.store.failure_groups("acme", limit=1)
    await queue.store.replay("acme", [call.job_id])
    await queue.store.resolve("acme", [call.job_id], by=None, note=None)
    await queue.store.exchange_turns()
    await queue.store.cancel("acme", call.job_id)
    await queue.store.delete("acme", call.job_id)
    work, worker = queue.work, uuid4()
    ids = await work.method_ids("a.B/Child", Policy())
    await work.register_worker(worker, "w", timedelta(minutes=1))
    await work.method_id("a.B/C")
    await work.policies()
    await work.queues()
    await work.elect("maintainer", worker, timedelta(minutes=1))
    jobs = await queue.claim(worker)
    await work.report_progress([Progress(Running(job.tenant, job.job_id, job.lease), 0.5, "") for job in jobs])
    await work.release(jobs)
    child = queue.call(ids=ids, parent_job_id=jobs[0].job_id)
    await queue.settle((await queue.claim(worker))[0], children=[child])
    await work.claim_suspects(worker, [ids.queue_id], [ids.method_id], 1)
    await work.count_suspects([ids.queue_id], [ids.method_id], 1)
    await work.suspect_waits([ids.queue_id], [ids.method_id])
    await work.promote(1)
    await work.bury_workers(timedelta(0))
    await work.rescue(1)
    await work.expire_attempts(1)
    await work.expire_jobs(1)
    await work.age(1)
    await work.hold_paused(1)
    await work.free_resumed(1)
    await work.forget_turns(1)
    await work.drop_history_day()
    await work.expire_keys(1)
    await work.make_history_days(HISTORY_DAYS)
    assert await work.make_history_days(HISTORY_DAYS + 2) == 8, "two more days of three retentions, and of activity"
    await work.retire_worker(worker)


async def test_a_missing_right_is_named_with_whom_it_is_to_be_granted_to(queue: PostgresQueue) -> None:
    """A role of ours, to the login; a function of Postgres's, which a managed server may not give, to the functions' owner."""
    async with await psycopg.AsyncConnection.connect(queue.logins.nobody, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as own:
            await connection.execute("select * from rowcall.policies()")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as theirs:
            await connection.execute("select pg_read_file('x')")
    said = fault(own.value, shard="a").message
    assert "permission denied for schema rowcall" in said
    assert "grant the login of this service rowcall_gateway (a gateway) or rowcall_worker" in said
    said = fault(theirs.value, shard="a").message
    assert "permission denied for function pg_read_file" in said
    assert "grant it to rowcall_owner" in said
