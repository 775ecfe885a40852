"""The roles that migrating needs: made where the login may, told of by name where it may not, and printed for whoever may.

On a server of the test's own, which has none of ours yet.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from rowcall.migrations import Kind, MigrationError, Target, lacks, migrate, roles_script
from rowcall.migrations.discovery import KINDS
from rowcall.migrations.roles import names
from tests.fix_postgres import RestartablePostgres

PASSWORD = "only-for-tests"
OURS = sorted({*names("catalogue"), *names("shard")})


class Server:
    """A server with an administrator, as managed servers give one, and a login "app" that owns databases and no more."""

    def __init__(self, postgres: RestartablePostgres) -> None:
        self._postgres = postgres
        self.by_option = postgres.server.binaries.major >= 16
        self.run("postgres", "create role admin login createrole createdb password 'only-for-tests'")
        self.run("postgres", "create role app login password 'only-for-tests'")

    def dsn(self, user: str, database: str = "postgres") -> str:
        dsn = self._postgres.dsn(database)
        return dsn if user == "postgres" else make_conninfo(dsn, user=user, password=PASSWORD)

    def run(self, user: str, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs statements as a login, and returns the rows of the last."""
        with psycopg.connect(self.dsn(user, database), autocommit=True) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self, name: str, owner: str = "app") -> str:
        """A database of the owner's; its connection string as that login."""
        self.run("postgres", f"create database {name} owner {owner}")
        return self.dsn(owner, name)

    def roles(self) -> list[tuple[str, bool]]:
        """Which of ours there are, and whether they can log in."""
        return self.run(
            "postgres", "select rolname, rolcanlogin from pg_roles where rolname like 'rowcall%' order by 1"
        )

    def untouched(self, database: str) -> bool:
        """Whether nothing of ours is in a database."""
        [[count]] = self.run(
            "postgres", "select count(*) from pg_namespace where nspname like 'rowcall%'", database=database
        )
        return bool(count == 0)


@pytest.fixture
def server(restartable_postgres: RestartablePostgres) -> Server:
    return Server(restartable_postgres)


def commands(error: MigrationError) -> Sequence[str]:
    """What a refusal says that an administrator, or an owner, runs."""
    return [each.strip() for each in re.findall(r"runs: ((?:[^;]+;)+)", str(error))]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_owner_that_may_make_no_roles_is_told_which_are_missing_and_what_prints_them(
    server: Server, kind: Kind
) -> None:
    dsn = server.database("fresh")
    with pytest.raises(MigrationError) as refused:
        await migrate(dsn, kind, shard="a")
    said = str(refused.value)
    assert f"has no role {', '.join(names(kind))}, and the login 'app' may not make roles" in said
    assert '"rowcall migrate --roles=print"' in said
    assert said.endswith("Nothing was changed in the database.")
    assert (server.roles(), server.untouched("fresh")) == ([], True)


async def test_what_is_printed_lets_the_owner_migrate_and_the_administrator_grant(server: Server) -> None:
    """The administrator is no superuser, runs it twice, and has nothing to do afterwards."""
    databases = {name: server.database(name) for name in ("catalogue", "shard_a", "shard_b")}
    targets = [
        Target("catalogue", "catalogue", databases["catalogue"]),
        Target("shard", "shard a", databases["shard_a"]),
        Target("shard", "shard b", databases["shard_b"]),
    ]
    text = roles_script(targets)
    assert PASSWORD not in text
    for _ in range(2):
        server.run("admin", text)
    assert server.roles() == [(role, False) for role in OURS]

    assert await migrate(databases["catalogue"], "catalogue")
    assert await migrate(databases["shard_a"], "shard", shard="a")
    assert await migrate(databases["shard_b"], "shard", shard="b")
    assert await migrate(databases["shard_a"], "shard", shard="a") == []

    # The services' logins, as its last lines have them.
    granting = [
        each[len("--   ") :] for each in re.findall(r"^--   (?:create role|grant) rowcall_.*;$", text, re.MULTILINE)
    ]
    assert len(granting) == 4
    server.run("admin", *(each.replace("…", PASSWORD) for each in granting))
    [[shard]] = server.run("rowcall_gateway_login", "select shard from rowcall.shard_facts()", database="shard_b")
    assert shard == "b"


async def test_a_printed_script_names_servers_and_logins_and_is_the_same_for_any_name(server: Server) -> None:
    strange = 'Odd "name"'
    text = roles_script(
        [
            Target("catalogue", "catalogue", "postgresql://db1.example/c?user=app&password=s3cret"),
            Target("shard", "shard a", make_conninfo(host="db2.example", port=6432, user=strange, password="s3cret")),
            Target("shard", "shard b", make_conninfo(host="db2.example", port=6432, user=strange, password="s3cret")),
        ]
    )
    assert "--   db1.example, port 5432: catalogue\n--   db2.example, port 6432: shard a, shard b\n" in text
    assert "s3cret" not in text
    by_service = roles_script([Target("catalogue", "catalogue", "service=jobs")])
    assert "--   the service jobs: catalogue\n" in by_service
    assert 'grant rowcall_owner to "rowcall_migrator";' in by_service
    server.run("admin", 'create role "Odd ""name""" login')
    server.run("admin", text)
    held = server.run(
        "postgres", "select m.member::regrole::text from pg_auth_members m where roleid = 'rowcall_owner'::regrole"
    )
    assert {("app",), ('"Odd ""name"""',)} <= {*held}


async def test_a_role_that_only_a_later_release_needs_is_named(server: Server) -> None:
    dsn = server.database("fresh")
    server.run("admin", roles_script([Target("shard", "shard a", dsn)]), "drop role rowcall_reader")
    with pytest.raises(MigrationError, match="has no role rowcall_reader, and"):
        await migrate(dsn, "shard", shard="a")
    assert server.untouched("fresh")


async def test_whoever_does_not_act_as_the_owner_is_told_the_grant(server: Server) -> None:
    """Also who goes on where another login has begun: nothing else is needed of the one before."""
    first = server.database("shard_a")
    server.run("admin", roles_script([Target("shard", "shard a", first)]))
    assert await migrate(first, "shard", shard="a", phase="pre")
    server.run(
        "postgres", "create role second login password 'only-for-tests'", "grant create on database shard_a to second"
    )
    dsn = server.dsn("second", "shard_a")
    with pytest.raises(MigrationError, match="The login 'second' does not act as rowcall_owner") as refused:
        await migrate(dsn, "shard", shard="a")
    server.run("admin", *commands(refused.value))
    assert await migrate(dsn, "shard", shard="a") == []
    assert (await lacks(dsn, "shard")).told == []


async def test_a_login_that_does_not_inherit_is_told_so_and_what_it_is_told_helps(server: Server) -> None:
    server.run("postgres", "create role app_2 login noinherit password 'only-for-tests'")
    dsn = server.database("fresh", "app_2")
    server.run("admin", roles_script([Target("shard", "shard a", dsn)]))
    with pytest.raises(MigrationError, match="does not act as rowcall_owner") as refused:
        await migrate(dsn, "shard", shard="a")
    server.run("postgres", *commands(refused.value))
    assert await migrate(dsn, "shard", shard="a")


async def test_who_may_make_no_schema_is_told_whose_the_database_should_be(server: Server) -> None:
    server.run("postgres", "create database fresh")
    dsn = server.dsn("app", "fresh")
    server.run("admin", roles_script([Target("shard", "shard a", dsn)]))
    with pytest.raises(MigrationError, match="may not make schemas in the database 'fresh'") as refused:
        await migrate(dsn, "shard", shard="a")
    server.run("postgres", *commands(refused.value))
    assert await migrate(dsn, "shard", shard="a")


async def test_a_role_that_can_do_more_than_it_is_granted_is_refused(server: Server) -> None:
    dsn = server.database("fresh")
    server.run("admin", roles_script([Target("shard", "shard a", dsn)]))
    for able in ("login", "createrole", "createdb", "bypassrls", "replication", "superuser"):
        server.run("postgres", f"alter role rowcall_gateway {able}")
        with pytest.raises(
            MigrationError, match="rowcall_gateway can log in, or do what belongs to the server"
        ) as refused:
            await migrate(dsn, "shard", shard="a")
        assert server.untouched("fresh"), able
        server.run("postgres", *commands(refused.value))
    assert await migrate(dsn, "shard", shard="a")


async def test_everything_that_is_lacking_is_told_at_once(server: Server) -> None:
    server.run("postgres", "create database fresh", "create role rowcall_worker login")
    with pytest.raises(MigrationError) as refused:
        await migrate(server.dsn("app", "fresh"), "shard", shard="a")
    for said in (
        "has no role rowcall_owner, rowcall_gateway, rowcall_submitter",
        "rowcall_worker can log in",
        "may not make schemas",
    ):
        assert said in str(refused.value)


async def test_an_administrator_that_migrates_makes_what_is_lacking_also_of_many_databases_at_once(
    server: Server,
) -> None:
    """No superuser: whoever is first makes the roles and acts as the owner, and the others find that done."""
    databases = {name: server.database(f"shard_{name}", "admin") for name in ("a", "b", "c", "d")}
    said: list[str] = []
    await asyncio.gather(*(migrate(dsn, "shard", shard=name, progress=said.append) for name, dsn in databases.items()))
    assert server.roles() == [(role, False) for role in sorted(names("shard"))]
    assert any(line.startswith("made the roles rowcall_owner, ") for line in said)
    assert [await migrate(dsn, "shard", shard=name) for name, dsn in databases.items()] == [[]] * 4


async def test_looking_changes_nothing(server: Server) -> None:
    dsn = server.database("fresh", "admin")
    found = await lacks(dsn, "shard")
    assert (found.login, found.database, found.missing, found.makes) == ("admin", "fresh", names("shard"), True)
    assert found.told == [], "a migration makes them"
    assert (server.roles(), server.untouched("fresh")) == ([], True)


async def test_what_was_applied_is_read_by_services_and_by_nobody_else_and_written_by_none(server: Server) -> None:
    dsn = server.database("shard_a", "admin")
    await migrate(dsn, "shard", shard="a")
    for role in ("rowcall_gateway", "rowcall_worker"):
        server.run("admin", f"create role of_{role} login password 'only-for-tests'", f"grant {role} to of_{role}")
        assert server.run(f"of_{role}", "select name, version from rowcall_migrations.applied", database="shard_a")
        for refused in (
            "select applied_by from rowcall_migrations.applied",
            "delete from rowcall_migrations.applied",
            "update rowcall_migrations.applied set version = 9",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                server.run(f"of_{role}", refused, database="shard_a")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        server.run("app", "select name from rowcall_migrations.applied", database="shard_a")
