"""What a session of Postgres must be to serve, and when it serves no longer.

Used by the pools, by the connections that are not from a pool, and by the migrations. What is asked here costs no round
trip: from Postgres 14 on a server reports by itself whether a session can write, and says so again when that changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg.pq.abc import PGconn

KEPT: Final[Mapping[str, str]] = MappingProxyType(
    {
        # A claim under repeatable read collides with every other.
        "default_transaction_isolation": "read committed",
        # A warning is all that tells of a commit whose wait for its standby was ended.
        "client_min_messages": "notice",
        # Else every error would end the session, and leave a commit unknown.
        "exit_on_error": "off",
        "idle_session_timeout": "0",
        "plpgsql.extra_errors": "none",
    }
)
"""What every session of ours needs, whatever is said of its login, its database or its server."""

READ: Final[Mapping[str, str]] = MappingProxyType(
    {
        "search_path": "pg_catalog, pg_temp",
        "DateStyle": "ISO, MDY",
        "IntervalStyle": "postgres",
        "TimeZone": "UTC",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "standard_conforming_strings": "on",
        "backslash_quote": "safe_encoding",
        "array_nulls": "on",
        "transform_null_equals": "off",
        "quote_all_identifiers": "off",
        "row_security": "on",
    }
)
"""How statements are read, and values come back: of sessions in which all statements are ours."""

ENCODING: Final = "UTF8"
"""The client_encoding of every session: a parameter of the connection, not one of its options, so that PGCLIENTENCODING
says nothing, and through PgBouncer it is known too."""

_OF_CONTENT: Final = ("21", "22", "23", "44", "54", "P0")
"""Classes of SQLSTATE that a statement gets for its values: cardinality, data, constraints, limits, what a function raises."""

_PASSING: Final = frozenset({"40001", "40P01", "55P03", "57014", "53100", "XX000"})
"""Collisions, a statement that took too long, a full disk, a value that is too large for the server: any other session
would have got the same."""

_OF_ALL: Final = frozenset({"25006", "0A000"})
"""read_only_sql_transaction; feature_not_supported, which is how a prepared statement ends whose types were changed. All
sessions that are as old are in the same state."""

_AGAIN: Final = _OF_ALL | {"26000", "42P05"}
"""With invalid_sql_statement_name and duplicate_prepared_statement: somebody else has used the session."""

_TAKES_WRITES: Final = (b"in_hot_standby", b"default_transaction_read_only")
"""What a server reports: https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC."""


def options(*parts: Mapping[str, str] | str | None) -> str:
    """What libpq calls options: settings a session begins with, which cost no round trip. What comes later is stronger."""
    told = []
    for part in parts:
        if isinstance(part, Mapping):
            told += [f"-c {name}={_escaped(value)}" for name, value in part.items()]
        elif part:
            told.append(part)
    return " ".join(told)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


class ReadOnlySession(psycopg.OperationalError):
    """The server that was connected to takes no writes: a standby, or one that was set to read only."""


def takes_writes(pgconn: PGconn) -> bool:
    """Whether the server has not said that the session cannot write. Not through a pooler, which repeats what some session
    of its own was told once."""
    return all(pgconn.parameter_status(name) != b"on" for name in _TAKES_WRITES)


def look_at(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """Raises ReadOnlySession if the server has said that the session cannot write."""
    if not takes_writes(connection.pgconn):
        raise ReadOnlySession("the session is read-only")


def is_spent(error: BaseException) -> bool:
    """Whether a statement was refused for the state that its session, or its server, is in, and not for what it says: by
    a standby, for a right or a role that the session does not have, for a prepared statement that is none any more.

    The connection is closed then and never given back: a new session may be better, and this one will not be. Whatever is
    not known to be about values counts; to connect once too often costs little.
    """
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        # psycopg's own word on a value that cannot be sent, or libpq's on a connection that is lost anyhow.
        return isinstance(error, psycopg.OperationalError)
    return not state.startswith(_OF_CONTENT) and state not in _PASSING


def is_spent_for_all(error: BaseException) -> bool:
    """Whether all sessions that are as old are spent too."""
    return isinstance(error, psycopg.Error) and error.sqlstate in _OF_ALL


def may_pass_elsewhere(error: BaseException) -> bool:
    """Whether nothing was written, and the same statement may well succeed in a new session."""
    return isinstance(error, psycopg.Error) and error.sqlstate in _AGAIN


_SPENT: Final = "_rowcall_spent"
"""The attribute of a connection that holds what its session is spent by."""


def note(connection: psycopg.AsyncConnection[Any], error: BaseException) -> None:
    """Keeps with a connection that its session is spent, if it is by this error, for whoever takes it back."""
    if is_spent(error):
        setattr(connection, _SPENT, error)


def spent_by(connection: psycopg.AsyncConnection[Any]) -> BaseException | None:
    """What a connection's session was spent by; None: it serves."""
    error: BaseException | None = getattr(connection, _SPENT, None)
    return error
