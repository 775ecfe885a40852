"""Who may do what: the manifests, rights.toml of shard and catalogue, against a migrated database, both ways."""

from __future__ import annotations

import tomllib
from collections import Counter

import psycopg
import pytest

from rowcall.migrations import Kind, discover
from rowcall.migrations.discovery import KINDS
from tests.fix_cluster import Cluster
from tests.support.next_release import PACKAGE

SCHEMAS: dict[Kind, str] = {"catalogue": "rowcall_catalogue", "shard": "rowcall"}

GRANTED = """
select coalesce(nullif(a.grantee, 0)::regrole::text, 'public'), lower(a.privilege_type), a.object, a.is_grantable
from (
  select n.nspname as object, a.*
  from pg_namespace n
  cross join lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
  where n.nspname = %(schema)s
  union all
  select c.relname, a.*
  from pg_class c
  cross join lateral aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) a
  where c.relnamespace = %(schema)s::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  union all
  select c.relname || '.' || t.attname, a.*
  from pg_class c
  join pg_attribute t on t.attrelid = c.oid
  cross join lateral aclexplode(t.attacl) a
  where c.relnamespace = %(schema)s::regnamespace
  union all
  select p.proname, a.*
  from pg_proc p
  cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
  where p.pronamespace = %(schema)s::regnamespace
) a
where a.grantee <> 'rowcall_owner'::regrole
"""
"""Defaults too, where nothing was said: there PUBLIC may execute."""

Right = tuple[str, str, str]
"""Who, what, with which object."""


def manifest(kind: Kind) -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((PACKAGE / "migrations" / kind / "rights.toml").read_text())


def database(cluster: Cluster, kind: Kind) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(cluster.catalogue_dsn if kind == "catalogue" else cluster.shards["a"])


def granted(cluster: Cluster, kind: Kind) -> list[tuple[Right, bool]]:
    """What the database has, and whether it may be passed on."""
    with database(cluster, kind) as connection:
        rows = connection.execute(GRANTED, {"schema": SCHEMAS[kind]}).fetchall()
    return [((str(role), str(verb), str(of)), bool(passed_on)) for role, verb, of, passed_on in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_has_the_rights_that_the_manifest_says_and_no_others(cluster: Cluster, kind: Kind) -> None:
    said = [
        (role, verb, of) for role, verbs in manifest(kind).items() for verb, objects in verbs.items() for of in objects
    ]
    assert [right for right, times in Counter(said).items() if times > 1] == [], "said twice"
    has = granted(cluster, kind)
    assert sorted({right for right, _ in has} - set(said)) == [], "the database has more"
    assert sorted(set(said) - {right for right, _ in has}) == [], "the manifest says more"
    assert [right for right, passed_on in has if passed_on] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_names_each_role_that_the_migrations_make(cluster: Cluster, kind: Kind) -> None:
    text = discover(kind)[0].text
    with database(cluster, kind) as connection:
        roles = {
            str(row[0]) for row in connection.execute("select rolname from pg_roles where rolname like 'rowcall%'")
        }
    assert {role for role in roles if f"'{role}'" in text} == {*manifest(kind), "rowcall_owner"}


def test_a_function_has_one_name_and_what_it_is_granted_by_is_no_other(cluster: Cluster) -> None:
    """An overload would have the rights of neither, and a call might mean either."""
    with database(cluster, "shard") as connection:
        rows = connection.execute(
            "select proname from pg_proc where pronamespace = 'rowcall'::regnamespace group by proname having count(*) > 1"
        ).fetchall()
    assert rows == []


def test_roles_of_ours_can_do_nothing_else_and_are_in_no_other(cluster: Cluster) -> None:
    with database(cluster, "shard") as connection:
        able = connection.execute(
            """
            select r.rolname
            from pg_roles r
            where r.rolname like 'rowcall%'
              and (r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication or r.rolbypassrls)
            """
        ).fetchall()
        members = connection.execute(
            """
            select m.member::regrole::text, m.roleid::regrole::text
            from pg_auth_members m
            where m.member::regrole::text like 'rowcall%'
            """
        ).fetchall()
    assert (able, members) == ([], [])


def test_what_comes_later_is_nobodys_until_it_is_granted(cluster: Cluster) -> None:
    with database(cluster, "shard") as connection:
        connection.execute("set role rowcall_owner")
        connection.execute("create function rowcall.later() returns int language sql as 'select 1'")
        connection.execute("create table rowcall.later_on ()")
        connection.execute("create view rowcall.later_seen as select 1")
        connection.execute("reset role")
        rows = connection.execute(GRANTED, {"schema": "rowcall"}).fetchall()
        assert [row for row in rows if str(row[2]).startswith("later")] == []
        connection.rollback()
