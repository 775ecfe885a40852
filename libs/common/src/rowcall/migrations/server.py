"""What a server must be before anything is applied to it: recent enough, writable, in UTF-8. Called by the runner."""

from __future__ import annotations

from typing import Any, Final

import psycopg

from rowcall.migrations.errors import MigrationError

OLDEST: Final = 15
"""The oldest major version of Postgres that is supported."""

_FACTS = b"select pg_is_in_recovery(), current_setting('server_encoding')"


def check_version(server_version: int) -> None:
    """Refuses a Postgres that is too old.

    Args:
        server_version: As Postgres numbers it: 150004 is 15.4.

    Raises:
        MigrationError: It is older than 15.
    """
    major = server_version // 10000
    if major < OLDEST:
        raise MigrationError(
            f"This server is Postgres {major}; Rowcall needs {OLDEST} or newer (it uses unique nulls not distinct). "
            "Nothing was changed. Upgrade the server, or name another in the connection string."
        )


async def check_server(connection: psycopg.AsyncConnection[Any]) -> None:
    """Refuses a server that cannot hold the schema. Raises MigrationError, psycopg.Error."""
    check_version(connection.info.server_version)
    row = await (await connection.execute(_FACTS)).fetchone()
    standby, encoding = row if row is not None else (False, "")
    if standby:
        raise MigrationError(
            "This server is a standby and takes no writes. Nothing was changed. Connect to the primary "
            "(target_session_attrs=read-write in the connection string finds it)."
        )
    if encoding != "UTF8":
        raise MigrationError(
            f"This database is encoded in {encoding}; Rowcall needs UTF8. Nothing was changed. Make another one: "
            "create database … template template0 encoding 'UTF8'."
        )
