"""Applies migrations to one database. Called by `rowcall migrate`, by development and by tests; never at a service's start.

A file and the record of it are one transaction: a run that fails or is killed leaves whole files behind, and the next
one goes on after them. One run at a time on a database (an advisory lock of the session that applies).
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from rowcall import sessions
from rowcall.migrations import record, roles
from rowcall.migrations.compatibility import kinds_of
from rowcall.migrations.discovery import Kind, Migration, Phase, discover
from rowcall.migrations.errors import MigrationError, UnreachableError
from rowcall.migrations.failures import failed
from rowcall.migrations.history import HISTORY_DAYS
from rowcall.migrations.record import Applied
from rowcall.migrations.server import check_server
from rowcall.security import database_tls, passwords
from rowcall.settings import Dsn

_LOCK = b"select pg_try_advisory_lock(hashtextextended('rowcall.migrations', 0))"
_LOCK_HOLDER = b"""
select pid
from pg_locks
where locktype = 'advisory'
  and granted
  and database = (select oid from pg_database where datname = current_database())
  and objsubid = 1
  and ((classid::bigint << 32) | objid::bigint) = hashtextextended('rowcall.migrations', 0)
"""
_LOCK_POLL: Final = 0.2
"""Seconds. Asking again and again, because a session that waits inside a statement holds a snapshot, and create index
concurrently would wait for that."""

_SETTINGS = b"""
set local lock_timeout = '3s';
set local statement_timeout = '15min';
set local search_path = pg_catalog, pg_temp
"""
_TIMEOUTS: Final = {"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0"}
_NO_LIMIT = b"set transaction_timeout = 0"
"""From Postgres 17 on; a server that does not know it would refuse the connection for it."""
_TRANSACTION_TIMEOUT: Final = 170000

_TRIES: Final = 6
"""How often a file is tried whose locks are not to be had in time, or whose transaction collides."""
_AGAIN: Final = frozenset({"55P03", "40P01", "40001"})
_CONCURRENT_UPDATE: Final = "XX000"
"""Two databases of one server that are migrated at once grant the same server-wide role: "tuple concurrently updated", or"""
_CONCURRENT_INSERT: Final = "23505"
"""a membership that is there already."""

Progress = Callable[[str], None]
"""Told, in a line of text, what is done."""


@dataclass(frozen=True, slots=True)
class Status:
    """A migration as one database has it."""

    name: str
    """ "pre/0001_schema" """
    state: Literal["applied", "pending", "changed", "unknown"]
    """changed: the file is not what was applied; unknown: applied by another release, which has it."""
    applied_at: datetime | None
    """By the database's clock."""


async def migrate(
    dsn: str,
    kind: Kind,
    *,
    shard: str | None = None,
    phase: Phase | Literal["all"] = "all",
    progress: Progress | None = None,
    migrations: Sequence[Migration] | None = None,
) -> list[str]:
    """Applies what is pending and returns the names of it.

    Args:
        dsn: Of the database, as its owner; directly, not through a transaction pooler. The server's roles are made, where it
            lacks some and this login may make any.
        kind: What the database is.
        shard: The shard's name; needed the first time, and checked afterwards.
        phase: "pre" before the new release runs, "post" when the old one is gone; "all" where nothing runs.
        progress: Told what is done.
        migrations: What to apply instead of what this release brings: another release's (`discover` with its root).

    Raises:
        MigrationError: With what was wrong, what was kept, and what to do.
    """
    say = progress or (lambda _: None)
    known = discover(kind) if migrations is None else migrations
    async with _connected(dsn) as connection:
        try:
            await check_server(connection)
            await _lock(connection, say)
            # First: what was applied is the owner's to read.
            await _ensure_roles(connection, kind, say)
            applied = await record.read(connection)
        except psycopg.Error as error:
            raise failed(error, "before the first file", "Nothing was changed.") from error
        _refuse_other_kind(kind, applied)
        _refuse_changed(known, applied)
        if kind == "shard":
            await _refuse_other_shard(connection, shard)
        if phase == "post":
            _refuse_half_expanded(known, applied)
        try:
            await record.create(connection)
        except psycopg.Error as error:
            raise failed(error, "before the first file", "Nothing was changed.") from error
        pending = [each for each in known if each.name not in applied and phase in (each.phase, "all")]
        for migration in pending:
            say(f"applying {migration.name}")
            await _apply(connection, migration, say)
        if kind == "shard" and phase != "post":
            await _prepare_shard(connection, shard, say)
    return [each.name for each in pending]


async def status(dsn: str, kind: Kind) -> list[Status]:
    """What is applied and what is pending, in the order of application. Raises MigrationError."""
    async with _connected(dsn) as connection:
        try:
            applied = await record.read(connection)
        except psycopg.Error as error:
            raise failed(error, "reading what was applied", "Nothing was changed.") from error
    found = []
    for migration in discover(kind):
        row = applied.pop(migration.name, None)
        if row is None:
            found.append(Status(migration.name, "pending", None))
        else:
            same = row.checksum == migration.checksum
            found.append(Status(migration.name, "applied" if same else "changed", row.applied_at))
    found.extend(Status(row.name, "unknown", row.applied_at) for row in applied.values())
    return found


async def lacks(dsn: str, kind: Kind) -> roles.Lacks:
    """What the server and the database lack for this login to migrate it; changes nothing. Raises MigrationError."""
    async with _connected(dsn) as connection:
        try:
            return await roles.look(connection, kind)
        except psycopg.Error as error:
            raise failed(error, "looking at the server's roles", "Nothing was changed.") from error


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    given = conninfo_to_dict(dsn)
    # Last, hence stronger than what the string says: it is the services' too, whose timeouts are none of a migration's.
    own = {
        "application_name": "rowcall migrate",
        "client_encoding": sessions.ENCODING,
        "options": sessions.options(
            None if given.get("options") is None else str(given["options"]), _TIMEOUTS, sessions.KEPT, sessions.READ
        ),
    }
    if "," in str(given.get("host") or given.get("hostaddr") or "") and not given.get("target_session_attrs"):
        # Of one host `check_server` has better words.
        own["target_session_attrs"] = "read-write"
    try:
        connection = await passwords.connect(
            psycopg.AsyncConnection.connect, Dsn(dsn).with_parameters(own), autocommit=True
        )
    except psycopg.Error as error:
        raise UnreachableError(
            f"The database cannot be reached: {str(error).rstrip('.')}. Nothing was changed. "
            f"{database_tls.advice(error) or 'Check the connection string and the server'}."
        ) from error
    try:
        if connection.info.server_version >= _TRANSACTION_TIMEOUT:
            await connection.execute(_NO_LIMIT)
        yield connection
    finally:
        await connection.close()


async def _lock(connection: psycopg.AsyncConnection[Any], say: Progress) -> None:
    """Takes the lock of all runs on this database; it is the session's and goes with it."""
    told = False
    while True:
        row = await (await connection.execute(_LOCK)).fetchone()
        if row is not None and row[0]:
            return
        if not told:
            holder = await (await connection.execute(_LOCK_HOLDER)).fetchone()
            say(f"waiting for another migration of this database (backend {holder[0] if holder else 'unknown'})")
            told = True
        await asyncio.sleep(_LOCK_POLL)


def _refuse_other_kind(kind: Kind, applied: dict[str, Applied]) -> None:
    there = kinds_of(applied)
    if there and kind not in there:
        raise MigrationError(
            f"This database is a {there[0]} and cannot be a {kind} too: catalogue and shards are databases of their own, of one "
            "server or of several. Nothing was changed. Create another database, and name that in its connection string."
        )


def _refuse_changed(known: Sequence[Migration], applied: dict[str, Applied]) -> None:
    changed = [each.name for each in known if each.name in applied and applied[each.name].checksum != each.checksum]
    if changed:
        raise MigrationError(
            f"{', '.join(changed)}: the file is not the one that was applied to this database. Nothing was changed. An "
            "applied migration is never edited: restore the file, and put the change into a new one."
        )


def _refuse_half_expanded(known: Sequence[Migration], applied: dict[str, Applied]) -> None:
    missing = [each.name for each in known if each.phase == "pre" and each.name not in applied]
    if missing:
        raise MigrationError(
            f"{', '.join(missing)}: not applied yet, and post takes away what is used instead. Nothing was changed. Run "
            "--phase pre first, and the release that it is for."
        )


async def _ensure_roles(connection: psycopg.AsyncConnection[Any], kind: Kind, say: Progress) -> None:
    async def ensure() -> None:
        for line in await roles.ensure(connection, kind):
            say(line)

    await _tried(ensure, "making roles", lambda error: _may_pass(error) or error.sqlstate == _CONCURRENT_INSERT, say)


async def _apply(connection: psycopg.AsyncConnection[Any], migration: Migration, say: Progress) -> None:
    async def apply() -> None:
        if not migration.in_transaction:
            await connection.execute(migration.text.encode())
        async with connection.transaction():
            await connection.execute(_SETTINGS)
            if migration.in_transaction:
                await connection.execute(migration.text.encode())
            await record.write(connection, migration)

    try:
        await _tried(apply, migration.name, _may_pass, say)
    except psycopg.Error as error:
        raise failed(error, migration) from error


async def _tried(
    what: Callable[[], Awaitable[None]], name: str, may_pass: Callable[[psycopg.Error], bool], say: Progress
) -> None:
    """Does something, again where it collides with other sessions. Raises psycopg.Error, MigrationError."""
    for tried in range(1, _TRIES + 1):
        try:
            await what()
        except psycopg.Error as error:
            if tried == _TRIES or not may_pass(error):
                raise
            say(f"{name} collided with other sessions ({type(error).__name__}); trying again")
            await asyncio.sleep(random.uniform(0.1, 0.5) * tried)  # noqa: S311 - spreads, hides nothing
        else:
            return


def _may_pass(error: psycopg.Error) -> bool:
    if error.sqlstate == _CONCURRENT_UPDATE:
        # The text is in the server's language; the place in Postgres is this one's.
        return error.diag.source_file == "heapam.c"
    return error.sqlstate in _AGAIN


async def _refuse_other_shard(connection: psycopg.AsyncConnection[Any], shard: str | None) -> None:
    """The name that a shard has, if it has one, must be the one it is migrated as."""
    try:
        there = await (await connection.execute(b"select to_regclass('rowcall.shard_info') is not null")).fetchone()
        if there is None or not there[0]:
            name = None
        else:
            async with connection.transaction():
                await connection.execute(b"set local role rowcall_owner")
                row = await (await connection.execute(b"select shard from rowcall.shard_info")).fetchone()
                name = None if row is None else row[0]
    except psycopg.Error as error:
        raise failed(error, "reading the shard's name", "Nothing was changed.") from error
    if name is None and shard is None:
        raise MigrationError("This database has no shard's name yet. Nothing was changed. Name the shard.")
    if name is not None and shard is not None and name != shard:
        raise MigrationError(
            f"This database is the shard {name!r}, not {shard!r}. Nothing was changed. Check which connection string "
            "belongs to which shard."
        )


async def _prepare_shard(connection: psycopg.AsyncConnection[Any], shard: str | None, say: Progress) -> None:
    """What a shard needs besides its schema: its name, its key for fingerprints, days of history."""
    try:
        async with connection.transaction():
            await connection.execute(_SETTINGS)
            await connection.execute(b"set local role rowcall_owner")
            if shard is not None:
                await connection.execute(
                    b"insert into rowcall.shard_info (shard, fingerprint_key) values (%s, %s) on conflict do nothing",
                    [shard, secrets.token_bytes(32)],
                )
        async with connection.transaction():
            await connection.execute(b"set local role rowcall_owner")
            row = await (
                await connection.execute(
                    sql.SQL("select rowcall.make_history_days({})").format(sql.Literal(HISTORY_DAYS))
                )
            ).fetchone()
    except psycopg.Error as error:
        raise failed(error, "after the last file", "All files were applied; run it again for the rest.") from error
    if row is not None and row[0]:
        say(f"made {row[0]} partitions of history")
