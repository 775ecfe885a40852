"""Each role tried for what it must not do: as a login that was granted it, on a shard with jobs of two tenants.

What is tried is read from the database: a function, a table or a view that somebody adds is tried by everybody at once. What
each may is rights.toml's; that it is no more than it says is test_rights'.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from rowcall.catalogue.images import load_catalogue
from rowcall.migrations.roles import names
from tests.fix_pooler import LOGINS
from tests.fix_queue import PostgresQueue
from tests.integration.migrations.test_rights import GRANTED, manifest, schemas
from tests.support.queues import FAILED

SECRET = b"card 4111-1111"
"""In the request, the response and the error of jobs."""

Connection = psycopg.Connection[tuple[Any, ...]]

REFUSED = errors.InsufficientPrivilege
REFUSED_OR_NONE = (REFUSED, errors.WrongObjectType, errors.ObjectNotInPrerequisiteState, errors.FeatureNotSupported)
"""What is no table has no triggers, and a view of sums takes no rows, whoever asks."""
NOT_TO_BE_HAD = (REFUSED, errors.UndefinedFile, errors.UndefinedObject, errors.FeatureNotSupported)
"""What is not installed on this server cannot be had either."""

FUNCTIONS = """
select
  p.proname,
  format(
    'select rowcall.%I(%s) from (select %s from generate_series(1, 1) offset 0) a',
    p.proname,
    (select string_agg('a.a' || n, ', ' order by n) from generate_series(1, p.pronargs) n),
    (
      select coalesce(string_agg(format('null::%s as a%s', t.type::regtype, t.n), ', ' order by t.n), '1')
      from unnest(p.proargtypes::oid[]) with ordinality t (type, n)
    )
  )
from pg_proc p
where p.pronamespace = 'rowcall'::regnamespace and p.prokind = 'f' and p.prorettype <> 'trigger'::regtype
order by 1
"""
"""Each function with a call of it; its arguments are not constant, or a strict function would not be called."""


@pytest.fixture
async def shard(queue: PostgresQueue) -> PostgresQueue:
    """Jobs of acme and bolt, done, failed and waiting, with a secret in each."""
    for method in load_catalogue().methods.values():
        await queue.store.publish(method)
    for tenant in ("acme", "bolt"):
        await queue.submit(*(queue.call(tenant, request=SECRET) for _ in range(3)))
    [done, failed, *_] = await queue.claim(await queue.worker(), 3)
    await queue.settle(done, response=SECRET)
    await queue.settle(failed, FAILED, error=SECRET, error_code=3, error_message="No.")
    await queue.admin.execute("select rowcall.allow_reader('test_acme', 'acme')")
    return queue


def opened(queue: PostgresQueue, login: str) -> Connection:
    return psycopg.connect(queue.logins.straight(login), autocommit=True)


def refusal(connection: Connection, statement: str, *by: type[psycopg.Error]) -> str:
    """What a statement is refused with; it fails the test where it is not, or by something else."""
    try:
        connection.execute(statement.encode())
    except by as error:
        return str(error)
    pytest.fail(f"{connection.info.user} was not refused: {statement}")


@pytest.fixture(params=[login for login in LOGINS if login != "test_services"])
def attacker(request: pytest.FixtureRequest) -> str:
    """One of the logins."""
    login: str = request.param
    return login


def may(login: str) -> Mapping[str, set[str]]:
    """What the manifest lets a login do: objects by verb."""
    found: dict[str, set[str]] = {}
    for role in LOGINS[login]:
        for verb, objects in manifest("shard")[role].items():
            found.setdefault(verb, set()).update(objects)
    return found


async def state(queue: PostgresQueue) -> list[tuple[Any, ...]]:
    """All that an attack could have changed: every job, every right, every route."""
    found = []
    for query in (
        "select j::text from rowcall.job j order by 1",
        "select j::text from rowcall.job_history j order by 1",
        "select r::text from rowcall.tenant_route r order by 1",
        "select r::text from rowcall.tenant_reader r order by 1",
        "select i::text from rowcall.shard_info i",
        "select count(*), max(oid) from pg_class where relnamespace = 'rowcall'::regnamespace",
        "select count(*), max(oid) from pg_proc where pronamespace = 'rowcall'::regnamespace",
    ):
        found += await (await queue.admin.execute(query.encode())).fetchall()
    granted = await queue.admin.execute(GRANTED.encode(), {"schemas": schemas("shard")})
    return found + sorted(await granted.fetchall())


async def test_nobody_calls_a_function_that_the_role_was_not_granted(shard: PostgresQueue, attacker: str) -> None:
    calls = await (await shard.admin.execute(FUNCTIONS.encode())).fetchall()
    granted = may(attacker).get("execute", set())
    tried = [(name, call) for name, call in calls if name not in granted]
    assert len(tried) > 20
    before = await state(shard)
    with opened(shard, attacker) as connection:
        for name, call in tried:
            said = refusal(connection, call, REFUSED)
            assert re.search("permission denied for (function|schema)", said), f"{name}: {said}"
    assert await state(shard) == before


VERBS = (
    "select * from {}",
    "select count(*) from {}",
    "copy {} to stdout",
    "insert into {} default values",
    "update {} set {} = {}",
    "delete from {}",
    "truncate {}",
    "do $$ begin lock table {} in access exclusive mode; end $$",
    "alter table {} owner to current_user",
    "alter table {} disable trigger all",
    "create trigger mine after insert on {} for each row execute function suppress_redundant_updates_trigger()",
    "create rule mine as on insert to {} do nothing",
    "create policy mine on {}",
    "drop table {}",
)


async def test_nobody_reads_or_writes_a_table_that_the_role_was_not_granted(
    shard: PostgresQueue, attacker: str
) -> None:
    relations = await shard.admin.execute(
        """
        select c.oid::regclass::text, c.relname, quote_ident((
          select a.attname from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and a.attidentity = '' order by a.attnum limit 1
        ))
        from pg_class c
        where c.relnamespace in ('rowcall'::regnamespace, 'rowcall_migrations'::regnamespace) and c.relkind in ('r', 'p', 'v')
        """
    )
    found = await relations.fetchall()
    granted = may(attacker).get("select", set())
    before = await state(shard)
    with opened(shard, attacker) as connection:
        for relation, name, column in found:
            for verb in VERBS:
                if name in granted and verb.startswith(("select", "copy")):
                    continue
                if verb.startswith("select count") and any(each.startswith(f"{name}.") for each in granted):
                    continue  # one column is enough to count
                statement = verb.format(relation, column, column)
                refusal(connection, statement, *REFUSED_OR_NONE)
    assert await state(shard) == before


STATEMENTS = (
    "create table rowcall.mine ()",
    "create function rowcall.mine() returns int language sql as 'select 1'",
    "create schema rowcall_mine",
    "create or replace function rowcall.state_name(integer) returns text language sql as 'select ''x''::text'",
    "alter function rowcall.submit_jobs reset search_path",
    "alter function rowcall.claim_jobs security invoker",
    "alter schema rowcall owner to current_user",
    "alter schema rowcall rename to mine",
    "drop function rowcall.hold_lease",
    "drop schema rowcall cascade",
    "drop owned by rowcall_owner",
    "reassign owned by rowcall_owner to current_user",
    "alter default privileges for role rowcall_owner grant execute on functions to public",
    "alter role rowcall_owner login password 'x'",
    "alter role current_user superuser",
    "alter role postgres password 'x'",
    "create role mine",
    "grant rowcall_owner to current_user",
    "grant rowcall_worker to current_user",
    "grant all on all tables in schema rowcall to current_user",
    "alter system set log_statement = 'all'",
    "set session_replication_role = replica",
    "set session authorization postgres",
    "set log_statement = 'all'",
    "select pg_read_file('PG_VERSION')",
    "select pg_ls_dir('.')",
    "select lo_import('/etc/passwd')",
    "copy (select 1) to program 'true'",
    "copy (select 1) to '/tmp/rowcall-attack'",
    "create extension dblink",
    "create language plpython3u",
    "create subscription mine connection 'dbname=postgres' publication p",
    "create publication mine for all tables",
    "create event trigger mine on ddl_command_end execute function suppress_redundant_updates_trigger()",
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres' and pid <> pg_backend_pid()",
    "select nextval(frontier) from (select 'rowcall.frontier_1_3'::regclass as frontier) f",
    "select setval('rowcall.frontier_1_3', 1)",
)


async def test_nobody_does_what_belongs_to_the_owner_or_the_server(shard: PostgresQueue, attacker: str) -> None:
    before = await state(shard)
    with opened(shard, attacker) as connection:
        for statement in STATEMENTS:
            refusal(connection, statement, *NOT_TO_BE_HAD)
        # Of these Postgres only warns.
        for statement in ("grant all on schema rowcall to current_user", "grant usage on schema rowcall to public"):
            with suppress(REFUSED):
                connection.execute(statement.encode())
    assert await state(shard) == before


def test_nobody_takes_on_another_role(queue: PostgresQueue, attacker: str) -> None:
    others = {*names("shard"), *LOGINS, "postgres", "pg_read_all_data", "pg_write_all_data", "pg_signal_backend"}
    with opened(queue, attacker) as connection:
        for role in sorted(others - {*LOGINS[attacker], attacker}):
            for become in ("set role {}", "set session authorization {}"):
                refusal(connection, become.format(role), REFUSED)


STATISTICS = "select s::text from pg_stats s where starts_with(s.schemaname, 'rowcall')"
RUNNING = "select query from pg_stat_activity where usename <> current_user"
READABLE = (
    STATISTICS,
    RUNNING,
    "select s::text from pg_stats_ext s",
    "select lo_get(oid)::text from pg_largeobject_metadata",
    "select prosrc from pg_proc",
    "select reset_val from pg_settings",
)
"""What of Postgres's own every login may read."""


async def test_nobody_but_the_services_comes_to_a_payload(shard: PostgresQueue, attacker: str) -> None:
    """Whatever of Postgres's own a login may read, and every view that it may."""
    await shard.admin.execute("analyze rowcall.job, rowcall.job_history, rowcall.job_key")
    # What the attack looks for is there to be found, also as the superuser's last statement.
    statistics = await shard.value(
        f"select count(*) from ({STATISTICS}) s (t) where strpos(t, %s) > 0 or strpos(t, %s) > 0",
        SECRET.hex(),
        SECRET.decode(),
    )
    assert statistics > 0
    toast = await (
        await shard.admin.execute(
            "select reltoastrelid::regclass::text from pg_class where relnamespace = 'rowcall'::regnamespace and reltoastrelid <> 0"
        )
    ).fetchall()
    assert toast
    await shard.admin.execute(f"select '{SECRET.decode()}', 'bolt'".encode())
    seen: list[str] = []
    told: list[str] = []
    with opened(shard, attacker) as connection:
        for query in READABLE:
            told += [str(row[0]) for row in connection.execute(query.encode())]
        seen += told
        for name in may(attacker).get("select", set()):
            if "." not in name:
                view = sql.Identifier("rowcall", name)
                seen += [row[0] for row in connection.execute(sql.SQL("select v::text from {} v").format(view))]
        for (table,) in toast:
            with pytest.raises(REFUSED):
                connection.execute(f"select * from {table}".encode())
    assert seen
    assert not [text for text in told if "bolt" in text], "Postgres's own tell of no tenant"
    assert not [text for text in seen if SECRET.decode() in text or SECRET.hex() in text]


async def test_a_submitter_only_submits(shard: PostgresQueue) -> None:
    """It gets no job back but the one it wrote, and not what another tenant wrote under the same key."""
    submit = "select rowcall.submit_v1(%s, 'rowcall.probe.v1.ProbeService/Echo', %s, 'k')"
    with opened(shard, "test_submitter") as connection:
        first, again, other = (
            connection.execute(submit, [tenant, SECRET]).fetchone() for tenant in ("acme", "acme", "bolt")
        )
        assert first is not None
        assert first == again != other
        for refused in (
            "select rowcall.claim_jobs(gen_random_uuid(), 1, '{1}', '{0,0,0,0}', 1)",
            "select rowcall.read_jobs('{acme}', array[gen_random_uuid()], true, true)",
            "select rowcall.fence_v1('acme', gen_random_uuid(), 1)",
            "select rowcall.cancel_recorded('acme', array[gen_random_uuid()], 'e', null)",
        ):
            with pytest.raises(REFUSED):
                connection.execute(refused.encode())


TAKEN_IN: Sequence[tuple[str, str, str]] = (
    (
        "test_submitter",
        "select rowcall.submit_v1('acme', 'rowcall.probe.v1.ProbeService/Echo', 'x', 'taken in')",
        "select count(*) = 1 from rowcall.job_key where request_id = 'taken in'",
    ),
    (
        "test_gateway",
        "select rowcall.pause_recorded('tenant', 'acme', true, 'eve', 'taken in', null)",
        "select count(*) = 1 from rowcall.tenant_route where tenant = 'acme' and paused_at > '2020-01-01'",
    ),
    (
        "test_worker",
        "select rowcall.register_worker('00000000-0000-0000-0000-000000000007', 'taken in', interval '1 minute', null, null, null, null, null, null, null)",
        "select count(*) = 1 from rowcall.worker where name = 'taken in' and started_at > '2020-01-01'",
    ),
)
"""Who calls what, and what must be so afterwards."""


@pytest.fixture
async def evil(queue: PostgresQueue) -> AsyncIterator[None]:
    """A schema that everybody may use, whose functions and operators have the names of Postgres's own."""
    await queue.admin.execute(
        """
        create schema evil;
        grant usage on schema evil to public;
        create function evil.clock_timestamp() returns timestamptz return timestamptz '2000-01-01';
        create function evil.now() returns timestamptz return timestamptz '2000-01-01';
        create function evil.same(text, text) returns boolean language sql return true;
        create operator evil.= (leftarg = text, rightarg = text, function = evil.same)
        """
    )
    yield
    await queue.admin.execute("drop schema evil cascade")


@pytest.mark.parametrize(("login", "call", "holds"), TAKEN_IN, ids=[login for login, _, _ in TAKEN_IN])
async def test_names_of_a_sessions_own_do_not_reach_into_functions(
    queue: PostgresQueue, evil: None, login: str, call: str, holds: str
) -> None:
    """Tables in the session's temporary schema under the names of ours, functions and operators before Postgres's."""
    await queue.submit(queue.call("acme"))
    for method in load_catalogue().methods.values():
        await queue.store.publish(method)
    tables = await (
        await queue.admin.execute(
            "select relname from pg_class where relnamespace = 'rowcall'::regnamespace and relkind in ('r', 'p')"
        )
    ).fetchall()
    with opened(queue, login) as connection:
        for (table,) in tables:
            connection.execute(sql.SQL("create temporary table {} (tenant text)").format(sql.Identifier(table)))
        connection.execute("set search_path = evil, pg_temp, rowcall, pg_catalog")
        row = connection.execute("select clock_timestamp() < '2000-01-02'").fetchone()
        assert row == (True,), "the session itself is taken in"
        connection.execute(call.encode())
        for (table,) in tables:
            count = sql.SQL("select count(*) from pg_temp.{}").format(sql.Identifier(table))
            assert connection.execute(count).fetchone() == (0,), table
    assert await queue.value(holds)


@pytest.fixture
def sessions(queue: PostgresQueue) -> Iterator[list[Connection]]:
    """A session of each login, at once."""
    found = [opened(queue, login) for login in LOGINS]
    yield found
    for connection in found:
        connection.close()


async def test_no_setting_makes_a_session_of_a_tenant(shard: PostgresQueue, sessions: list[Connection]) -> None:
    """There is none that is heeded, whoever says it."""
    for connection in sessions:
        for name in ("rowcall.tenant", "rowcall.login", "rowcall.role", "app.tenant"):
            connection.execute("select set_config(%s, 'bolt', false)", [name])
        connection.execute("set row_security = off")
    reader = sessions[list(LOGINS).index("test_acme")]
    assert {*reader.execute("select tenant from rowcall.tenant_jobs")} == {("acme",)}
