"""Migrations and what belongs to the whole server, its roles: on a server that has none of ours yet."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from rowcall.errors import RowcallError
from rowcall.migrations import MigrationError, check_schema, discover, migrate
from tests.fix_postgres import RestartablePostgres

ROLES = [
    "rowcall_auditor", "rowcall_gateway", "rowcall_owner", "rowcall_reader", "rowcall_servicer", "rowcall_submitter",
    "rowcall_tenant_reader", "rowcall_worker",
]  # fmt: skip


def run(dsn: str, *statements: str) -> list[tuple[object, ...]]:
    """Runs statements and returns the rows of the last."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


async def test_many_databases_of_one_fresh_server_at_once(restartable_postgres: RestartablePostgres) -> None:
    """They all make the same roles."""
    shards = {name: restartable_postgres.create_database(f"shard_{name}") for name in ("a", "b", "c", "d")}
    catalogue = restartable_postgres.create_database("catalogue")
    done = await asyncio.gather(
        migrate(catalogue, "catalogue"), *(migrate(dsn, "shard", shard=name) for name, dsn in shards.items())
    )
    assert [len(names) for names in done] == [len(discover("catalogue"))] + [len(discover("shard"))] * 4
    roles = run(catalogue, "select rolname, rolcanlogin from pg_roles where rolname like 'rowcall%' order by rolname")
    assert roles == [(role, False) for role in ROLES]


async def test_an_owner_that_is_no_superuser_can_migrate(restartable_postgres: RestartablePostgres) -> None:
    """CREATEROLE for the roles, CREATEDB for the databases, as managed servers give them."""
    admin = restartable_postgres.dsn("postgres")
    run(
        admin,
        "create role operator login createrole createdb password 'p'",
        "create role second login createrole createdb password 'p'",
        "create role service login password 'p'",
    )
    operator = make_conninfo(admin, user="operator", password="p")
    run(operator, "create database shard_a", "create database shard_b", "create database catalogue")
    shard, other, catalogue = (make_conninfo(operator, dbname=name) for name in ("shard_a", "shard_b", "catalogue"))
    assert await migrate(shard, "shard", shard="a", phase="pre") == [each.name for each in discover("shard")]
    assert await migrate(shard, "shard", shard="a") == []
    assert await migrate(other, "shard", shard="b")
    assert await migrate(catalogue, "catalogue")

    # Everything belongs to the role that cannot log in.
    owners = run(
        shard, "select distinct pg_get_userbyid(relowner) from pg_class where relnamespace = 'rowcall'::regnamespace"
    )
    assert owners == [("rowcall_owner",)]

    # Somebody else's login is told what it lacks, and may do it once it has it.
    second = make_conninfo(admin, user="second", password="p")
    run(second, "create database shard_c")
    third = make_conninfo(second, dbname="shard_c")
    if restartable_postgres.server.binaries.major >= 16:  # before, CREATEROLE lets a login take on any role by itself
        with pytest.raises(MigrationError, match="'second' does not act as rowcall_owner"):
            await migrate(third, "shard", shard="c")
        run(operator, "grant rowcall_owner to second")
    assert await migrate(third, "shard", shard="c")

    # A service that was granted its role can look at what was applied, and cannot write there.
    run(operator, "grant rowcall_gateway to service")
    service = make_conninfo(shard, user="service", password="p")
    async with await psycopg.AsyncConnection.connect(service, autocommit=True) as connection:
        await check_schema(connection, "shard")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("delete from rowcall_migrations.applied")


async def test_a_service_refuses_a_shard_that_is_another_one(restartable_postgres: RestartablePostgres) -> None:
    """Two connection strings that were swapped: the shards would get each other's new tenants."""
    dsn = restartable_postgres.create_database("shard_a")
    await migrate(dsn, "shard", shard="a")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await check_schema(connection, "shard", shard="a")
        with pytest.raises(RowcallError, match=r"SCHEMA_MISMATCH: Database 'shard_a' is the shard 'a', not 'b'"):
            await check_schema(connection, "shard", shard="b")


async def test_a_service_refuses_a_database_that_is_not_migrated_or_not_wholly(
    restartable_postgres: RestartablePostgres,
) -> None:
    dsn = restartable_postgres.create_database("shard_a")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        with pytest.raises(RowcallError, match=r"SCHEMA_MISMATCH: .*'shard_a'.*rowcall migrate"):
            await check_schema(connection, "shard")
        await migrate(dsn, "shard", shard="a")
        await check_schema(connection, "shard")
        with pytest.raises(RowcallError, match="as a catalogue"):
            await check_schema(connection, "catalogue")
        await connection.execute("delete from rowcall_migrations.applied where name like 'pre/0016%'")
        with pytest.raises(RowcallError, match=r"pre/0016_grants were not applied.*rowcall migrate"):
            await check_schema(connection, "shard")
