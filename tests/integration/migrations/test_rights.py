"""Who may do what: the manifests, rights.toml of shard and catalogue, against a migrated database, both ways; and what must
hold of everything in it, whoever adds to it."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest

from rowcall.migrations import Kind, migrate
from rowcall.migrations.discovery import KINDS
from rowcall.migrations.roles import SCHEMAS, names
from tests.fix_cluster import Cluster
from tests.support.next_release import PACKAGE

GRANTED = """
select coalesce(nullif(a.grantee, 0)::regrole::text, 'public'), lower(a.privilege_type), a.object, a.is_grantable
from (
  select 'database' as object, a.*
  from pg_database d
  cross join lateral aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
  where d.datname = current_database() and a.grantee <> d.datdba
  union all
  select n.nspname, a.*
  from pg_namespace n
  cross join lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
  where n.nspname = any (%(schemas)s)
  union all
  select c.relname, a.*
  from pg_class c
  cross join lateral aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) a
  where c.relnamespace = any (%(schemas)s::regnamespace[]) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  union all
  select c.relname || '.' || t.attname, a.*
  from pg_class c
  join pg_attribute t on t.attrelid = c.oid
  cross join lateral aclexplode(t.attacl) a
  where c.relnamespace = any (%(schemas)s::regnamespace[])
  union all
  select p.proname, a.*
  from pg_proc p
  cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
  where p.pronamespace = any (%(schemas)s::regnamespace[])
  union all
  -- But for arrays and tables' rows, which have no rights of their own.
  select t.typname, a.*
  from pg_type t
  left join pg_class c on c.oid = t.typrelid
  cross join lateral aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) a
  where t.typnamespace = any (%(schemas)s::regnamespace[]) and t.typcategory <> 'A' and coalesce(c.relkind, 'c') = 'c'
) a
where a.grantee <> 'rowcall_owner'::regrole
"""
"""Defaults too, where nothing was said: there PUBLIC may execute, connect and use types."""

POSTGRES_S_OWN = {("public", "connect", "database"), ("public", "temporary", "database")}
"""What every database has from Postgres. An operator takes it away: it may be shared with others."""

UNIQUE_WITHOUT_TENANT: dict[Kind, dict[str, str]] = {
    "catalogue": {
        "applied": "a migration",
        "audit": "an action that is of no tenant",
        "audit_end": "the chain of those",
        "gateway": "a gateway process",
        "image": "an image, whoever calls its methods",
        "revocation": "an issuer's tokens, whatever tenants they are of",
    },
    "shard": {
        "admitting": "a gateway process",
        "admitting_beat": "a gateway process",
        "applied": "a migration",
        "audit_sealer": "what is sealed of the shard's audit",
        "depth_look": "the shard itself, as somebody has seen it",
        "elected": "what one worker of the shard does",
        "incident": "a kind of failure, whoever's calls met it",
        "message_type": "a type of an image, whoever uses it",
        "method": "a method, whoever calls it",
        "policy": "a method's settings",
        "queue": "a queue, whoever uses it",
        "queue_lane": "a lane of a queue",
        "queue_look": "a queue, whoever's jobs wait in it",
        "served": "a method, and who served it last",
        "serving": "a worker process",
        "shard_info": "the shard itself",
        "tenant_reader": "a login, whose tenants are found by it; operators alone write it",
        "tenant_table": "a table of the users'",
        "worker": "a worker process",
        "worker_beat": "a worker process",
    },
}
"""Tables with a unique key that does not begin with the tenant, and what a row is of instead."""

DYNAMIC = {
    "drop_history_day": "names tables of history, which it finds in pg_inherits, by %I",
    "make_history_days": "names tables by %I, made of a constant and a date; dates by %L",
    "queue_id": "names a sequence by two numbers of its own",
}
"""Functions that build statements, and of what. Whoever calls them says none of it."""

Right = tuple[str, str, str]
"""Who, what, with which object."""

Connection = psycopg.Connection[tuple[Any, ...]]


def schemas(kind: Kind) -> list[str]:
    return [SCHEMAS[kind], "rowcall_migrations"]


def manifest(kind: Kind) -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((PACKAGE / "migrations" / kind / "rights.toml").read_text())


def database(cluster: Cluster, kind: Kind) -> Connection:
    return psycopg.connect(cluster.catalogue_dsn if kind == "catalogue" else cluster.shards["a"])


def rows(connection: Connection, query: str, kind: Kind) -> list[tuple[Any, ...]]:
    """Of a query that is given the schemas."""
    return connection.execute(query.encode(), {"schemas": schemas(kind)}).fetchall()


@pytest.mark.parametrize("kind", KINDS)
async def test_everybody_has_the_rights_that_the_manifest_says_and_no_others(
    database: Callable[[], str], kind: Kind
) -> None:
    dsn = database()
    await migrate(dsn, kind, shard="a")
    with psycopg.connect(dsn) as connection:
        has = [
            ((str(role), str(verb), str(of)), passed_on)
            for role, verb, of, passed_on in rows(connection, GRANTED, kind)
        ]
    said = [
        (role, verb, of) for role, verbs in manifest(kind).items() for verb, objects in verbs.items() for of in objects
    ]
    assert [right for right, times in Counter(said).items() if times > 1] == [], "said twice"
    assert sorted({right for right, _ in has} - {*said} - POSTGRES_S_OWN) == [], "the database has more"
    assert sorted(set(said) - {right for right, _ in has}) == [], "the manifest says more"
    assert [right for right, passed_on in has if passed_on] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_of_the_manifest_is_of_one_thing(cluster: Cluster, kind: Kind) -> None:
    """An overload would have the rights of neither, and a call might mean either; nor is a name in both schemas. (A function and a
    table may have one: what is granted of the one is not of the other.)"""
    query = """
    select named from (
      select 'function' as what, proname as named from pg_proc where pronamespace = any (%(schemas)s::regnamespace[])
      union all
      select 'table', relname from pg_class where relnamespace = any (%(schemas)s::regnamespace[]) and relkind in ('r', 'p', 'v', 'S')
    ) n
    group by what, named having count(*) > 1
    """
    with database(cluster, kind) as connection:
        assert rows(connection, query, kind) == []


def test_roles_of_ours_can_do_nothing_else_and_are_in_no_other(cluster: Cluster) -> None:
    ours = {"roles": [*{*names("catalogue"), *names("shard")}]}
    with database(cluster, "shard") as connection:
        able = connection.execute(
            """
            select r.rolname
            from pg_roles r
            where r.rolname = any (%(roles)s)
              and (r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication or r.rolbypassrls)
            """,
            ours,
        ).fetchall()
        members = connection.execute(
            """
            select m.member::regrole::text, m.roleid::regrole::text
            from pg_auth_members m
            where m.member::regrole::text = any (%(roles)s)
            """,
            ours,
        ).fetchall()
    assert (able, members) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_it_is_the_owners_who_cannot_log_in(cluster: Cluster, kind: Kind) -> None:
    query = """
    select what, owner::regrole::text from (
      select nspname::text as what, nspowner as owner from pg_namespace where nspname = any (%(schemas)s)
      union all
      select relname, relowner from pg_class where relnamespace = any (%(schemas)s::regnamespace[])
      union all
      select proname, proowner from pg_proc where pronamespace = any (%(schemas)s::regnamespace[])
      union all
      select typname, typowner from pg_type where typnamespace = any (%(schemas)s::regnamespace[])
    ) o
    where owner <> (select oid from pg_roles where rolname = 'rowcall_owner' and not rolcanlogin)
    """
    with database(cluster, kind) as connection:
        assert rows(connection, query, kind) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_is_nobodys_until_it_is_granted(cluster: Cluster, kind: Kind) -> None:
    schema = SCHEMAS[kind]
    with database(cluster, kind) as connection:
        connection.execute("set role rowcall_owner")
        for made in (
            "function {}.later() returns int language sql as 'select 1'",
            "procedure {}.later_run() language sql as 'select 1'",
            "table {}.later_on (number int generated always as identity)",
            "view {}.later_seen as select 1",
            "sequence {}.later_number",
            "type {}.later_row as (a int)",
            "domain {}.later_text as text",
            "type {}.later_kind as enum ('a')",
        ):
            connection.execute(f"create {made.format(schema)}".encode())
        connection.execute("reset role")
        assert [row for row in rows(connection, GRANTED, kind) if str(row[2]).startswith("later")] == []
        connection.rollback()


@pytest.mark.parametrize("kind", KINDS)
def test_functions_that_act_for_the_owner_find_names_in_places_of_their_own(cluster: Cluster, kind: Kind) -> None:
    query = """
    select p.proname
    from pg_proc p
    where p.pronamespace = any (%(schemas)s::regnamespace[])
      and p.prosecdef
      and not 'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))
    """
    with database(cluster, kind) as connection:
        assert rows(connection, query, kind) == []


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_builds_statements_is_known(cluster: Cluster, kind: Kind) -> None:
    """All functions, for those that act for the owner call the others."""
    query = "select proname, prosrc from pg_proc where pronamespace = any (%(schemas)s::regnamespace[]) and prosqlbody is null"
    with database(cluster, kind) as connection:
        sources = dict(rows(connection, query, kind))
    code = {name: re.sub(r"--[^\n]*", "", source) for name, source in sources.items()}
    found = {
        name for name, text in code.items() if re.search(r"\bexecute\b|\bquery_to_xml\b|\bdblink", text, re.IGNORECASE)
    }
    assert found == ({*DYNAMIC} if kind == "shard" else set())
    for name in found:
        for statement in re.findall(r"\bexecute\b\s+(\w+)", code[name], re.IGNORECASE):
            assert statement == "format", f"{name} puts a statement together otherwise"
            assert "||" not in re.sub(r"to_regclass\([^)]*\)", "", code[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_goes_by_a_setting_that_a_session_could_say(cluster: Cluster, kind: Kind) -> None:
    """But for how far a session of submit_v1 has looked, which costs whoever says it himself (docs/adr/0022)."""
    query = """
    select proname, prosrc from pg_proc where pronamespace = any (%(schemas)s::regnamespace[])
    union all
    select relname, pg_get_viewdef(oid) from pg_class where relnamespace = any (%(schemas)s::regnamespace[]) and relkind = 'v'
    """
    with database(cluster, kind) as connection:
        sources = dict(rows(connection, query, kind))
    settings = {
        (name, said)
        for name, source in sources.items()
        for said in re.findall(r"current_setting\(\s*([^,)]+)", re.sub(r"--[^\n]*", "", source))
    }
    assert settings <= {
        ("guard_worker", "'synchronous_commit'"),
        ("key_in_sql", "v_memory"),
        ("key_in_sql", "'transaction_isolation'"),
        # In which slot its own jobs are counted, and no more.
        ("aside_slot", "'transaction_isolation'"),
    } | {(name, "'synchronous_commit'") for name in sources}


@pytest.mark.parametrize("kind", KINDS)
def test_every_unique_key_begins_with_the_tenant_or_is_of_no_tenant(cluster: Cluster, kind: Kind) -> None:
    """Else whoever writes finds out by a collision what another tenant has."""
    query = """
    select c.relname, a.attname
    from pg_index i
    join pg_class c on c.oid = i.indrelid
    left join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
    where c.relnamespace = any (%(schemas)s::regnamespace[]) and (i.indisunique or i.indisexclusion)
    """
    tenants = """
    select c.relname
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = any (%(schemas)s::regnamespace[]) and c.relkind in ('r', 'p') and a.attname = 'tenant'
    """
    with database(cluster, kind) as connection:
        found = rows(connection, query, kind)
        of_a_tenant = {table for (table,) in rows(connection, tenants, kind)}
    assert "tenant" in {column for _, column in found}
    assert {table for table, column in found if column != "tenant"} <= {*UNIQUE_WITHOUT_TENANT[kind]}
    assert of_a_tenant & {*UNIQUE_WITHOUT_TENANT[kind]} <= {"tenant_reader"}


def test_a_view_that_is_read_by_some_tenants_is_a_barrier(cluster: Cluster) -> None:
    query = "select relname from pg_class where oid = any (%(views)s::regclass[]) and not coalesce(reloptions, '{}') @> '{security_barrier=true}'"
    views: Sequence[str] = [f"rowcall.{each}" for each in manifest("shard")["rowcall_tenant_reader"]["select"]]
    assert views
    with database(cluster, "shard") as connection:
        assert connection.execute(query.encode(), {"views": views}).fetchall() == []
