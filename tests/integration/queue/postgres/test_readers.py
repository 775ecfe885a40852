"""What people and dashboards read by SQL: each what its role is for, and of a tenant nothing by whatever way.

Each attack is made as a login of its own, and each finds the reader's own jobs, so that it is known to have worked.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql

from rowcall.queue.spend import Spend, SpendKind
from tests.fix_queue import PostgresQueue
from tests.support.queues import FAILED

SECRET = b"card 4111-1111"


@pytest.fixture(autouse=True)
async def jobs(queue: PostgresQueue) -> None:
    """Two jobs of acme and three of bolt: waiting, done, failed. acme's people may read acme's, bolt's bolt's."""
    for tenant in ("acme", "bolt", "bolt"):
        await queue.submit(queue.call(tenant, request=SECRET, labels={"of": tenant}))
    for job in (await queue.claim(await queue.worker(), 3))[:2]:
        cost = Spend(1, SpendKind.MODEL, queue.ids.method_id, "oracle", "m", cost=Decimal("0.5"), currency="EUR")
        await queue.settle(job, response=SECRET, spend=[cost])
    for tenant in ("acme", "bolt"):
        await queue.submit(queue.call(tenant, request=SECRET, labels={"of": tenant}))
        await queue.admin.execute("select rowcall.allow_reader(%s, %s)", [f"test_{tenant}", tenant])


async def opened(queue: PostgresQueue, user: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(queue.logins.straight(user), autocommit=True)


@pytest.fixture
async def acme(queue: PostgresQueue) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Somebody of acme's."""
    async with await opened(queue, "test_acme") as connection:
        yield connection


async def tenants(connection: psycopg.AsyncConnection[Any], view: str = "rowcall.tenant_jobs") -> list[str]:
    """Whose jobs are seen, one by one."""
    rows = await connection.execute(sql.SQL("select tenant from {} order by tenant").format(sql.SQL(view)))
    return [row[0] for row in await rows.fetchall()]


async def test_a_tenants_people_see_its_jobs_and_no_others(
    queue: PostgresQueue, acme: psycopg.AsyncConnection[Any]
) -> None:
    assert await tenants(acme) == ["acme", "acme"]
    async with await opened(queue, "test_bolt") as bolt:
        assert await tenants(bolt) == ["bolt", "bolt", "bolt"]


async def test_a_tenants_people_see_the_same_columns_and_of_attempts_not_where_a_handler_raised(
    queue: PostgresQueue, acme: psycopg.AsyncConnection[Any]
) -> None:
    columns = """
    select attrelid::regclass::text, array_agg(attname order by attnum)
    from pg_attribute
    where attrelid in ('rowcall.jobs'::regclass, 'rowcall.tenant_jobs'::regclass)
    group by 1
    """
    seen = dict(await (await queue.admin.execute(columns)).fetchall())
    assert seen["rowcall.tenant_jobs"] == seen["rowcall.jobs"]
    await queue.admin.execute(
        """update rowcall.job set attempts = '[{"attempt": 1, "location": "a:b:1"}]' where tenant = 'acme'"""
    )
    rows = await acme.execute("select attempts from rowcall.tenant_jobs where attempts is not null")
    [[attempts]] = await rows.fetchall()
    assert [{*each} & {"attempt", "location"} for each in attempts] == [{"attempt"}]


async def test_who_is_allowed_several_tenants_sees_them_and_who_is_forbidden_one_no_longer(
    queue: PostgresQueue, acme: psycopg.AsyncConnection[Any]
) -> None:
    await queue.admin.execute(
        "select rowcall.allow_reader('test_acme', 'bolt'), rowcall.allow_reader('test_acme', 'bolt')"
    )
    assert await tenants(acme) == ["acme", "acme", "bolt", "bolt", "bolt"]
    assert await queue.value("select rowcall.forbid_reader('test_acme', 'acme')") is True
    assert await queue.value("select rowcall.forbid_reader('test_acme', 'acme')") is False
    assert await tenants(acme) == ["bolt", "bolt", "bolt"]


async def test_a_reader_who_is_allowed_no_tenant_sees_nothing(queue: PostgresQueue) -> None:
    await queue.admin.execute("delete from rowcall.tenant_reader")
    async with await opened(queue, "test_acme") as connection:
        assert await tenants(connection) == []
    async with await opened(queue, "test_nobody") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await tenants(connection)


@pytest.mark.parametrize(
    ("login", "tenant", "said"),
    [
        ("nobody_there", "acme", "There is no login 'nobody_there'"),
        (None, "acme", "There is no login null"),
        ("test_nobody", "acme", "grant rowcall_tenant_reader to test_nobody"),
        ("test_acme", "Acme!", "'Acme!' is no tenant"),
        ("test_acme", None, "null is no tenant"),
    ],
)
async def test_who_cannot_be_allowed_is_told_why(
    queue: PostgresQueue, login: str | None, tenant: str | None, said: str
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        await queue.admin.execute("select rowcall.allow_reader(%s, %s)", [login, tenant])
    assert said in f"{refused.value} {refused.value.diag.message_hint}"


# Ways to another tenant's rows. Each is a list of statements, the last of which shows whose jobs are seen.
ATTACKS: dict[str, Sequence[str]] = {
    "a setting": (
        "set rowcall.tenant = 'bolt'",
        "select set_config('rowcall.tenant', 'bolt', false), set_config('rowcall.session_user', 'test_bolt', false)",
        "select tenant from rowcall.tenant_jobs",
    ),
    "a table of the same name": (
        "create temp table tenant_reader as select 'test_acme'::text as login, 'bolt'::text as tenant",
        "create temp view jobs as select 'bolt'::text as tenant",
        "set search_path = pg_temp, rowcall",
        "select tenant from tenant_jobs",
    ),
    "an operator of the same name": (
        "create function pg_temp.same(text, text) returns boolean language sql as 'select true'",
        "create operator pg_temp.= (leftarg = text, rightarg = text, function = pg_temp.same)",
        "set search_path = pg_temp, pg_catalog",
        "select tenant from rowcall.tenant_jobs",
    ),
    "a function of the same name": (
        "create function pg_temp.code_name(integer) returns text language sql as 'select ''OK''::text'",
        "create function pg_temp.session_user() returns name language sql as 'select ''test_bolt''::name'",
        "set search_path = pg_temp, pg_catalog",
        "select tenant from rowcall.tenant_jobs",
    ),
    "a condition": ("select tenant from rowcall.tenant_jobs where tenant = 'bolt' or tenant <> '' or true",),
    "a join": (
        """
        select j.tenant
        from rowcall.tenant_jobs j right join (values ('acme'), ('bolt')) t (tenant) using (tenant)
        where j.tenant is not null
        """,
    ),
    "a cursor that is held": (
        "begin",
        "declare seen cursor with hold for select tenant from rowcall.tenant_jobs",
        "commit",
        "fetch all from seen",
    ),
    "a function that acts for itself": (
        """
        create function pg_temp.seen() returns setof text language sql security definer
        as 'select tenant from rowcall.tenant_jobs'
        """,
        "select * from pg_temp.seen()",
    ),
    "a prepared statement": ("prepare seen as select tenant from rowcall.tenant_jobs", "execute seen"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_no_way_leads_to_another_tenants_jobs(acme: psycopg.AsyncConnection[Any], attack: str) -> None:
    *before, last = ATTACKS[attack]
    for statement in before:
        await acme.execute(statement.encode())
    rows = await acme.execute(last.encode())
    assert [row[0] for row in await rows.fetchall()] == ["acme", "acme"]


async def test_a_condition_of_the_readers_is_tried_on_no_row_but_his(acme: psycopg.AsyncConnection[Any]) -> None:
    """One that tells what it is given, as cheap as can be; and one that fails on what it is to find out."""
    told: list[str] = []
    acme.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    await acme.execute(
        """
        create function pg_temp.tell(p_said text) returns boolean language plpgsql cost 0.0000001 as $$
        begin
          raise notice '%', p_said;
          return true;
        end $$
        """
    )
    rows = await acme.execute(
        "select tenant from rowcall.tenant_jobs where pg_temp.tell(tenant || ' ' || labels::text)"
    )
    assert len(await rows.fetchall()) == 2
    assert told == ['acme {"of": "acme"}'] * 2
    rows = await acme.execute(
        "select 1 from rowcall.tenant_jobs where 1 / (case when tenant = 'acme' then 1 else 0 end) = 1"
    )
    assert len(await rows.fetchall()) == 2


@pytest.mark.parametrize(
    "role",
    [
        "rowcall_owner",
        "rowcall_auditor",
        "rowcall_gateway",
        "rowcall_worker",
        "rowcall_reader",
        "test_bolt",
        "postgres",
    ],
)
async def test_a_reader_becomes_nobody_else(acme: psycopg.AsyncConnection[Any], role: str) -> None:
    for become in ("set role {}", "set session authorization {}"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await acme.execute(sql.SQL(become).format(sql.Identifier(role)))
    assert await tenants(acme) == ["acme", "acme"]


async def test_who_acts_as_another_reader_still_sees_what_his_login_may(queue: PostgresQueue) -> None:
    await queue.admin.execute("grant test_bolt to test_acme")
    try:
        async with await opened(queue, "test_acme") as connection:
            await connection.execute("set role test_bolt")
            assert await tenants(connection) == ["acme", "acme"]
    finally:
        await queue.admin.execute("revoke test_bolt from test_acme")


@pytest.mark.parametrize(
    ("user", "views"),
    [
        ("test_acme", {"tenant_jobs", "tenant_spend"}),
        ("test_reader", {"finished_totals", "queue_totals", "spend_totals"}),
        ("test_auditor", {"audit", "audit_checkpoint", "audit_seal", "erasure", "incident", "jobs", "spend_by_day"}),
        ("test_servicer", set()),
        ("test_nobody", set()),
    ],
)
async def test_each_reads_what_its_role_is_for_and_changes_nothing(
    queue: PostgresQueue, user: str, views: set[str]
) -> None:
    rows = await queue.admin.execute(
        "select relname from pg_class where relnamespace = 'rowcall'::regnamespace and relkind in ('r', 'p', 'v', 'S')"
    )
    names = [row[0] for row in await rows.fetchall()]
    assert views <= {*names}
    read = set()
    async with await opened(queue, user) as connection:
        for name in names:
            for statement in (
                "select * from rowcall.{}",
                "delete from rowcall.{}",
                "insert into rowcall.{} default values",
            ):
                try:
                    await connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
                except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState):
                    # A view of sums cannot be written whoever tries.
                    continue
                assert statement.startswith("select"), f"{name} was changed"
                read.add(name)
        for make in ("create table rowcall.mine ()", "create view rowcall.mine as select 1"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(make.encode())
    assert read == views


async def test_no_view_has_a_payload(queue: PostgresQueue) -> None:
    views = await queue.admin.execute(
        "select relname from pg_class where relnamespace = 'rowcall'::regnamespace and relkind = 'v'"
    )
    names = [row[0] for row in await views.fetchall()]
    assert {"jobs", "tenant_jobs"} <= {*names}
    [job, *_] = await queue.claim(await queue.worker())
    await queue.settle(job, FAILED, error=SECRET, error_code=3, error_message="No.")
    await queue.admin.execute("insert into rowcall.tenant_reader values (session_user, 'acme'), (session_user, 'bolt')")
    for name in names:
        typed = await queue.admin.execute(
            "select count(*) from pg_attribute where attrelid = %s::regclass and atttypid = 'bytea'::regtype",
            [f"rowcall.{name}"],
        )
        assert await typed.fetchone() == (0,), name
        rows = await queue.admin.execute(sql.SQL("select v::text from rowcall.{} v").format(sql.Identifier(name)))
        found = "\n".join(row[0] for row in await rows.fetchall())
        assert found
        assert not re.search(f"4111-1111|{SECRET.hex()}", found), name


async def test_a_dashboard_sees_sums_and_no_tenant(queue: PostgresQueue) -> None:
    async with await opened(queue, "test_reader") as connection:
        rows = await connection.execute("select queue, ready, running, scheduled, capped from rowcall.queue_totals")
        assert await rows.fetchall() == [("default", 2, 1, 0, False)]
        rows = await connection.execute(
            "select queue, method, state, jobs from rowcall.finished_totals where day = (now() at time zone 'UTC')::date"
        )
        assert await rows.fetchall() == [("default", "acme.v1.PrintService/Print", "SUCCEEDED", 2)]
    columns = await queue.value(
        "select count(*) from information_schema.columns where table_name in ('queue_totals', 'finished_totals', 'spend_totals') and column_name = 'tenant'"
    )
    assert columns == 0


async def test_what_was_spent_is_seen_by_whom_it_is_for(
    queue: PostgresQueue, acme: psycopg.AsyncConnection[Any]
) -> None:
    columns = "day = (now() at time zone 'UTC')::date, method, kind, provider, model, currency, calls, cost"
    one = (True, "acme.v1.PrintService/Print", "MODEL", "oracle", "m", "EUR", 1, Decimal("0.5"))
    rows = await acme.execute(f"select tenant, {columns} from rowcall.tenant_spend".encode())
    assert await rows.fetchall() == [("acme", *one)]
    async with await opened(queue, "test_auditor") as auditor:
        rows = await auditor.execute(f"select tenant, {columns} from rowcall.spend_by_day order by 1".encode())
        assert await rows.fetchall() == [("acme", *one), ("bolt", *one)]
    async with await opened(queue, "test_reader") as reader:
        rows = await reader.execute(f"select {columns} from rowcall.spend_totals".encode())
        assert await rows.fetchall() == [(*one[:6], 2, Decimal(1))]


async def test_an_auditor_sees_all_tenants(queue: PostgresQueue) -> None:
    async with await opened(queue, "test_auditor") as connection:
        assert await tenants(connection, "rowcall.jobs") == ["acme", "acme", "bolt", "bolt", "bolt"]


async def test_a_reader_looks_his_tenants_up_and_walks_over_no_others(
    queue: PostgresQueue, acme: psycopg.AsyncConnection[Any]
) -> None:
    """However many jobs there are of others; and whether or not Postgres has looked at who may read what."""
    await queue.admin.execute(
        """
        insert into rowcall.job (
          tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, run_at, request
        )
        select 'other-' || mod(i, 200), gen_random_uuid(), 2, 3, 3, %s, i, %s, %s, now(), 'x' from generate_series(1, 20000) i
        """,
        [queue.ids.queue_id, queue.ids.method_id, queue.ids.policy_id],
    )
    await queue.admin.execute("analyze rowcall.job")
    rows = await acme.execute("explain (analyze, timing off, costs off) select tenant from rowcall.tenant_jobs")
    plan = "\n".join(row[0] for row in await rows.fetchall())
    assert "job_pkey" in plan, plan
    assert "Seq Scan on job " not in plan, plan
