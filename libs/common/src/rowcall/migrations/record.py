"""The record of what was applied to a database: the schema rowcall_migrations in it. Called by runner and check."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from rowcall.migrations.discovery import Migration

# Services look at it when they start; who applied something is not for them. The owner's, so that one login may go on where
# another has begun.
_CREATE = b"""
create schema if not exists rowcall_migrations authorization rowcall_owner;
set local role rowcall_owner;
create table if not exists rowcall_migrations.applied (
  name text primary key,
  version integer not null,
  checksum text not null,
  applied_at timestamptz not null default clock_timestamp(),
  applied_by text not null default session_user
);
grant usage on schema rowcall_migrations to rowcall_gateway, rowcall_worker;
grant select (name, version, checksum, applied_at) on rowcall_migrations.applied to rowcall_gateway, rowcall_worker;
"""

_AS_OWNER = b"set local role rowcall_owner"

_EXISTS = b"select to_regclass('rowcall_migrations.applied') is not null"

_READ = b"select name, version, checksum, applied_at from rowcall_migrations.applied order by applied_at, name"

_WRITE = b"""
insert into rowcall_migrations.applied (name, version, checksum) values (%(name)s, %(version)s, %(checksum)s)
"""


@dataclass(frozen=True, slots=True)
class Applied:
    """A migration that was applied to a database."""

    name: str
    """ "pre/0001_schema" """
    version: int
    """The version of the schema it belongs to, from 1."""
    checksum: str
    """Of the text that was applied."""
    applied_at: datetime
    """By the database's clock."""

    @property
    def phase(self) -> str:
        """When it is applied: "pre" or "post"."""
        return self.name.partition("/")[0]


async def create(connection: psycopg.AsyncConnection[Any]) -> None:
    """Makes the record's table unless it is there. Raises psycopg.Error."""
    if not await exists(connection):
        async with connection.transaction():
            await connection.execute(_CREATE)


async def exists(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether the database has a record. Raises psycopg.Error."""
    row = await (await connection.execute(_EXISTS)).fetchone()
    return row is not None and bool(row[0])


async def read(connection: psycopg.AsyncConnection[Any]) -> dict[str, Applied]:
    """What was applied, by name; nothing where there is no record. Raises psycopg.Error."""
    if not await exists(connection):
        return {}
    # In binary format a time depends on no setting of the session.
    rows = await (await connection.cursor(binary=True).execute(_READ)).fetchall()
    return {row[0]: Applied(*row) for row in rows}


async def write(connection: psycopg.AsyncConnection[Any], migration: Migration) -> None:
    """Records a migration, in the transaction that the caller has open, as the owner. Raises psycopg.Error."""
    await connection.execute(_AS_OWNER)
    await connection.execute(
        _WRITE, {"name": migration.name, "version": migration.version, "checksum": migration.checksum}
    )
