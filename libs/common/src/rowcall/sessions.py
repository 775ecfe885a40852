"""What a session of Postgres must be to serve, and when it serves no longer.

Used by the pools, by the connections that are not from a pool, and by the migrations. What is asked here costs no round
trip: from Postgres 14 on a server reports by itself whether a session can write, and says so again when that changes.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.pq.abc import PGconn

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
