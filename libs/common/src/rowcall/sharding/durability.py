"""Whether what Postgres acknowledges is there after a crash, which is what callers are promised. Asked at a service's start,
and of each new session of a pool.

What a login or a database is set to counts from the next session on, so that a look at the start alone would not do.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection

from rowcall.settings import ClusterSettings, Problem, SettingsError
from rowcall.sharding.statements import statement

_log = structlog.get_logger(__name__)

_DURABLE: Final = frozenset({"on", "remote_apply", "remote_write"})


def loss_of(synchronous_commit: str, *, has_standby: bool) -> str | None:
    """What a commit with this setting can be lost by; None: by nothing that the promise covers."""
    if synchronous_commit in _DURABLE:
        return None
    if synchronous_commit == "local":
        return "a switch-over to the synchronous standby" if has_standby else None
    return "a crash of Postgres"


async def check_durability(connection: AsyncConnection[Any], settings: ClusterSettings, *, database: str) -> None:
    """Refuses a database whose sessions acknowledge what can be lost, or says so where the settings allow it.

    Args:
        connection: In a session as the login, the database and the connection string make it.
        settings: The service's.
        database: "shard 'a'".

    Raises:
        SettingsError: With what to do.
        psycopg.Error: The database does not answer.
    """
    level, has_standby, _ = await _facts(connection)
    loss = loss_of(level, has_standby=has_standby)
    if loss is None:
        return
    if settings.relaxed_durability:
        _log.warning(
            "acknowledged calls can be lost, as the settings allow",
            database=database,
            cause=f"synchronous_commit = {level}: by {loss}",
            setting="ROWCALL_RELAXED_DURABILITY",
        )
        return
    raise SettingsError(
        settings.program,
        [
            Problem(
                "ROWCALL_RELAXED_DURABILITY (--relaxed-durability)",
                f"is not set, and {database} has synchronous_commit = {level} for {connection.info.user!r}: calls that were "
                f"acknowledged would be lost by {loss}. Set it to on where it is said (alter role, alter database, "
                "postgresql.conf, the connection string's options), or allow it.",
                "ROWCALL_RELAXED_DURABILITY=true",
            )
        ],
    )


async def settle_in(connection: AsyncConnection[Any], *, relaxed: bool, limited: bool, pool: str) -> None:
    """Makes a new session durable, and takes a limit of its transactions from it that was not meant for them.

    Args:
        connection: The session's.
        relaxed: Whether it may acknowledge what can be lost.
        limited: Whether the connection string itself sets transaction_timeout, which then stands.
        pool: For the log.

    Raises:
        psycopg.Error: The session is of no use.
    """
    level, has_standby, has_limit = await _facts(connection)
    loss = loss_of(level, has_standby=has_standby)
    if loss is not None and not relaxed:
        _log.warning(
            "acknowledged calls would be lost; our sessions commit durably all the same",
            pool=pool,
            cause=f"synchronous_commit = {level}: by {loss}",
        )
        await connection.execute(b"set synchronous_commit = on")
    if has_limit and not limited:
        await connection.execute(b"set transaction_timeout = 0")


async def _facts(connection: AsyncConnection[Any]) -> tuple[str, bool, bool]:
    cursor = await connection.execute(statement("session_facts"), prepare=False)
    row = await cursor.fetchone()
    if row is None:
        raise psycopg.OperationalError("the session says nothing of itself")
    return row[0], row[1], row[2]
