"""Migrating: fresh, again, on after a failure or a kill, several at once, by whom, and what is refused."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from rowcall.migrations import Kind, Migration, MigrationError, discover, migrate, status
from rowcall.migrations.discovery import NO_TRANSACTION
from tests.support.waiting import until

NewDatabase = Callable[[], str]


def made_up(number: int, text: str, phase: str = "pre") -> Migration:
    """A migration of a catalogue that no release has."""
    assert phase in ("pre", "post")
    return Migration("catalogue", "pre" if phase == "pre" else "post", number, f"{phase}/{number:04}_made_up", text)


def value(dsn: str, query: str) -> object:
    """The first column of the first row."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


TABLES = "select count(*) from pg_tables where schemaname = 'public'"


@pytest.mark.parametrize("kind", ["catalogue", "shard"])
async def test_a_fresh_database_gets_everything_and_the_next_run_nothing(database: NewDatabase, kind: Kind) -> None:
    dsn, said = database(), list[str]()
    names = [each.name for each in discover(kind)]
    assert [each.state for each in await status(dsn, kind)] == ["pending"] * len(names)
    assert await migrate(dsn, kind, shard="a", progress=said.append) == names
    assert [line for line in said if line.startswith("applying")] == [f"applying {name}" for name in names]
    assert await migrate(dsn, kind, shard="a") == []
    assert [(each.name, each.state) for each in await status(dsn, kind)] == [(name, "applied") for name in names]


async def test_a_shard_gets_its_name_its_own_key_and_days_of_history(database: NewDatabase) -> None:
    one, other = database(), database()
    for dsn, name in ((one, "a"), (other, "b")):
        await migrate(dsn, "shard", shard=name)
    assert (
        value(one, "select shard from rowcall.shard_info"),
        value(other, "select shard from rowcall.shard_info"),
    ) == (
        "a",
        "b",
    )
    key = "select fingerprint_key from rowcall.shard_info"
    assert value(one, key) != value(other, key)
    kept = value(one, key)
    await migrate(one, "shard", shard="a")
    assert value(one, key) == kept, "it is made once"
    days = "select count(*) from pg_inherits where inhparent = 'rowcall.job_history_long'::regclass"
    assert value(one, days) == 1 + 1 + 14, "yesterday, today and two weeks"


async def test_a_shard_keeps_its_name(database: NewDatabase) -> None:
    dsn = database()
    with pytest.raises(MigrationError, match="Name the shard"):
        await migrate(dsn, "shard")
    assert value(dsn, "select to_regnamespace('rowcall') is null"), "nothing was changed"
    await migrate(dsn, "shard", shard="a")
    with pytest.raises(MigrationError, match="is the shard 'a', not 'b'"):
        await migrate(dsn, "shard", shard="b")
    assert await migrate(dsn, "shard") == []


async def test_a_run_goes_on_after_the_file_that_failed(database: NewDatabase) -> None:
    dsn = database()
    good = [made_up(1, "create table public.one ()"), made_up(3, "create table public.three ()")]
    broken = made_up(2, "create table public.two ();\n\ncreate table public.two (a bigint, b nonsense);\n")
    with pytest.raises(MigrationError) as caught:
        await migrate(dsn, "catalogue", migrations=[good[0], broken, good[1]])
    said = str(caught.value)
    assert "catalogue/pre/0002_made_up.sql, line 3" in said
    assert "nonsense" in said
    assert "rolled back" in said
    assert "run the migration again" in said
    assert value(dsn, TABLES) == 1

    mended = replace(broken, text="create table public.two ()")
    assert await migrate(dsn, "catalogue", migrations=[good[0], mended, good[1]]) == [mended.name, good[1].name]
    assert value(dsn, TABLES) == 3


_KILLED = """
import asyncio, sys
from rowcall.migrations import migrate
from rowcall.migrations.discovery import Migration

migrations = [
    Migration("catalogue", "pre", 1, "pre/0001_made_up", "create table public.one ()"),
    Migration("catalogue", "pre", 2, "pre/0002_made_up", "create table public.two (); select pg_sleep(2)"),
]
asyncio.run(migrate(sys.argv[1], "catalogue", migrations=migrations))
"""


async def test_a_run_goes_on_after_a_kill(database: NewDatabase) -> None:
    """The killed one's session still works on its file: the next run waits for it, and finds whole files only."""
    dsn, said = database(), list[str]()
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", _KILLED, dsn)
    sleeping = (
        "select exists (select from pg_stat_activity where datname = current_database() and query like '%pg_sleep%'"
    )
    # Not one that asked this just now, and is on its way out.
    sleeping += " and query not like '%pg_stat_activity%')"
    await until(lambda: bool(value(dsn, sleeping)), seconds=20)
    killed.kill()
    await killed.wait()
    migrations = [
        made_up(1, "create table public.one ()"),
        made_up(2, "create table public.two (); select pg_sleep(2)"),
    ]
    third = made_up(3, "create table public.three ()")
    done = await migrate(dsn, "catalogue", migrations=[*migrations, third], progress=said.append)
    assert done == [migrations[1].name, third.name]
    assert said[0].startswith("waiting for another migration of this database (backend ")
    assert value(dsn, TABLES) == 3


async def test_runs_at_once_on_one_database_apply_each_file_once(database: NewDatabase) -> None:
    dsn, said = database(), list[str]()
    runs = await asyncio.gather(*(migrate(dsn, "shard", shard="a", progress=said.append) for _ in range(4)))
    assert sorted(name for run in runs for name in run) == sorted(each.name for each in discover("shard"))
    assert len([line for line in said if line.startswith("waiting")]) == 3


async def test_a_changed_file_is_refused(database: NewDatabase) -> None:
    dsn = database()
    first, second = made_up(1, "create table public.one ()"), made_up(2, "create table public.two ()")
    await migrate(dsn, "catalogue", migrations=[first])
    with pytest.raises(MigrationError, match="pre/0001_made_up: the file is not the one that was applied"):
        await migrate(dsn, "catalogue", migrations=[replace(first, text="create table public.one (a bigint)"), second])
    assert value(dsn, TABLES) == 1


async def test_the_state_of_every_file_can_be_asked_for(database: NewDatabase) -> None:
    dsn = database()
    first, *rest = discover("catalogue")
    await migrate(dsn, "catalogue", migrations=[replace(first, text="select 1"), made_up(99, "select 2")])
    assert [(each.name, each.state) for each in await status(dsn, "catalogue")] == [
        (first.name, "changed"),
        *((each.name, "pending") for each in rest),
        ("pre/0099_made_up", "unknown"),
    ]


async def test_phases_are_applied_apart(database: NewDatabase) -> None:
    dsn = database()
    pre, post = (
        made_up(1, "create table public.old (); create table public.new ()"),
        made_up(2, "drop table public.old", "post"),
    )
    later = made_up(3, "create table public.newer ()")
    assert await migrate(dsn, "catalogue", migrations=[pre, later, post], phase="pre") == [pre.name, later.name]
    assert value(dsn, TABLES) == 3
    assert await migrate(dsn, "catalogue", migrations=[pre, later, post], phase="post") == [post.name]
    assert value(dsn, TABLES) == 2


async def test_nothing_is_taken_away_before_what_takes_its_place_is_there(database: NewDatabase) -> None:
    dsn = database()
    old, new = made_up(1, "create table public.old ()"), made_up(2, "create table public.new ()")
    gone = made_up(3, "drop table public.old", "post")
    await migrate(dsn, "catalogue", migrations=[old])
    with pytest.raises(
        MigrationError, match=r"pre/0002_made_up: not applied yet.*Nothing was changed.*--phase pre first"
    ):
        await migrate(dsn, "catalogue", migrations=[old, new, gone], phase="post")
    assert value(dsn, TABLES) == 1
    assert await migrate(dsn, "catalogue", migrations=[old, new, gone], phase="pre") == [new.name]
    assert await migrate(dsn, "catalogue", migrations=[old, new, gone], phase="post") == [gone.name]


async def test_a_file_may_run_without_a_transaction(database: NewDatabase) -> None:
    dsn = database()
    table = made_up(1, "create table public.one (a bigint)")
    index = made_up(2, f"{NO_TRANSACTION}\ncreate index concurrently one_a on public.one (a)")
    broken = made_up(3, f"{NO_TRANSACTION}\ncreate unique index concurrently one_b on public.one (b)")
    with pytest.raises(MigrationError, match=r"0003_made_up\.sql: .*part of it may have stayed"):
        await migrate(dsn, "catalogue", migrations=[table, index, broken])
    assert value(dsn, "select indisvalid from pg_index where indexrelid = 'one_a'::regclass")
    assert await migrate(dsn, "catalogue", migrations=[table, index]) == []


async def test_a_lock_that_is_not_to_be_had_is_tried_for_again(database: NewDatabase) -> None:
    """A migration that waits for a lock holds up everybody who comes after it: it gives way and tries again."""
    dsn, said = database(), list[str]()
    first, second = made_up(1, "create table public.one ()"), made_up(2, "alter table public.one add column a bigint")
    await migrate(dsn, "catalogue", migrations=[first])
    async with await psycopg.AsyncConnection.connect(dsn) as reader:
        await reader.execute("select from one")
        run = asyncio.create_task(migrate(dsn, "catalogue", migrations=[first, second], progress=said.append))
        await until(lambda: any("trying again" in line for line in said), seconds=20)
        await reader.commit()
    assert await run == [second.name]


@pytest.mark.parametrize("kind", ["catalogue", "shard"])
async def test_a_login_without_rights_is_told_which(database: NewDatabase, queue_roles: None, kind: Kind) -> None:
    dsn = psycopg.conninfo.make_conninfo(database(), user="test_nobody", password="only-for-tests")
    with pytest.raises(
        MigrationError, match=r"does not act as rowcall_owner.*may not make schemas.*Nothing was changed"
    ):
        await migrate(dsn, kind, shard="a")


async def test_a_database_that_cannot_be_reached_is_said_without_the_password() -> None:
    with pytest.raises(MigrationError, match="cannot be reached") as caught:
        await migrate("postgresql://someone:secret@127.0.0.1:1/nowhere", "catalogue")
    assert "secret" not in str(caught.value)


async def test_a_database_of_another_encoding_is_refused(database: NewDatabase) -> None:
    dsn = database()
    name = f"latin_{value(dsn, 'select current_database()')}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"create database {name} template template0 encoding 'LATIN1' locale 'C'".encode())
        try:
            with pytest.raises(MigrationError, match="LATIN1; Rowcall needs UTF8"):
                await migrate(psycopg.conninfo.make_conninfo(dsn, dbname=name), "catalogue")
        finally:
            connection.execute(f"drop database {name} with (force)".encode())


@pytest.mark.parametrize(("first", "second"), [("catalogue", "shard"), ("shard", "catalogue")])
async def test_catalogue_and_shard_in_one_database_are_refused(
    database: NewDatabase, first: Kind, second: Kind
) -> None:
    dsn = database()
    await migrate(dsn, first, shard="a")
    tables = "select count(*) from pg_tables where schemaname like 'rowcall%'"
    before = value(dsn, tables)
    with pytest.raises(MigrationError, match=f"is a {first} and cannot be a {second} too.*Create another database"):
        await migrate(dsn, second, shard="a")
    assert value(dsn, tables) == before
