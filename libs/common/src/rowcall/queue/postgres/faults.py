"""What an error of the database means for a call: one function, psycopg error to `RowcallError`.

Called by everything that runs the queue's statements. The answers never carry the database's own text: it may quote
rows; but for that of a missing right, which names what was refused. It stays reachable as the cause, for the log.
"""

from __future__ import annotations

import psycopg
import psycopg_pool

from rowcall import sessions
from rowcall.errors import RowcallError
from rowcall.sharding.faults import refused_right
from rowcall.v1.error_reason_pb2 import ErrorReason

_COLLISIONS = frozenset({"40001", "40P01", "55P03"})
"""serialization_failure, deadlock_detected, lock_not_available: rolled back, to be tried again."""
_ROW_CLASSES = ("21", "22", "23", "44", "54")
"""Cardinality, data, integrity constraint, with check option, program limit: one row of a batch is at fault."""
_UNKNOWN_OBJECTS = frozenset({"3F000", "42883", "42P01", "42703", "42704", "42804"})
_GONE = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "40003"})
"""The server ended the session, or says itself that it does not know how the statement ended."""


class NotReplicated(psycopg.OperationalError):
    """Somebody ended a commit's wait for its synchronous standby: it is done here, and perhaps nowhere else."""


def lost(error: BaseException) -> bool:
    """Whether the connection broke off under a statement, so that nobody can say whether it was committed; or whether
    it was committed, and nobody can say whether a standby has it."""
    if isinstance(error, (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed, psycopg_pool.TooManyRequests)):
        return False
    if not isinstance(error, psycopg.Error):
        return isinstance(error, OSError)
    if error.sqlstate is None:
        # libpq's own: the server closed the connection, a timeout of TCP.
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate in _GONE or error.sqlstate.startswith("08")


def collided(error: BaseException) -> bool:
    """Whether the transaction was rolled back because of another one: the same again may well succeed."""
    return isinstance(error, psycopg.Error) and error.sqlstate in _COLLISIONS


def of_a_row(error: BaseException) -> bool:
    """Whether one row of a batch may be at fault, so that its neighbours do better without it.

    Errors without an SQLSTATE are psycopg's: a value that cannot be sent (NUL in a text). XX000 is among them because a
    batch that is too large for one message or allocation ends with it.
    """
    if isinstance(error, psycopg.Error):
        if error.sqlstate is None:
            return isinstance(error, (psycopg.DataError, psycopg.ProgrammingError))
        return error.sqlstate.startswith(_ROW_CLASSES) or error.sqlstate == "XX000"
    return isinstance(error, (UnicodeError, OverflowError))


def fault(error: BaseException, *, shard: str, writing: bool = False, operation: str | None = None) -> RowcallError:
    """The error that a call is answered with; the database's error is its cause.

    Args:
        error: What psycopg or its pool raised.
        shard: Name of the shard it came from.
        writing: Whether a statement that writes was under way, so that a lost connection leaves its outcome unknown.
        operation: Name of the job that the call was about.
    """
    if isinstance(error, RowcallError):
        # A pool's own, of a shard that cannot be reached. Another object, for each call that waited for it.
        made = RowcallError(
            error.reason,
            error.message,
            metadata=error.metadata,
            details=error.details,
            retry_after=error.retry_after,
            code=error.code,
        )
    else:
        made = _fault(error, shard, writing, operation)
    made.__cause__ = error
    return made


def _fault(  # noqa: PLR0911 - a table, in the order in which its rows are looked at
    error: BaseException, shard: str, writing: bool, operation: str | None
) -> RowcallError:
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if lost(error) and writing:
        return RowcallError(
            ErrorReason.ERROR_REASON_COMMIT_UNKNOWN,
            (
                f"The commit on shard {shard!r} was not awaited until its standby has it"
                if isinstance(error, NotReplicated)
                else f"The connection to shard {shard!r} was lost before the database said whether the row is committed"
            )
            + ". With an idempotency-key, call again with it; without one, ask for the operation and call again only if it is "
            "NOT_FOUND.",
            metadata={} if operation is None else {"operation": operation},
        )
    if collided(error):
        return RowcallError(
            ErrorReason.ERROR_REASON_CONFLICT,
            f"Transactions on shard {shard!r} kept colliding with others; nothing was written. Call again.",
        )
    if state in _UNKNOWN_OBJECTS:
        return RowcallError(
            ErrorReason.ERROR_REASON_SCHEMA_MISMATCH,
            f'Shard {shard!r} lacks a function or table of this release. The operator must run "rowcall migrate".',
            metadata={"shard": shard},
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return RowcallError(
            ErrorReason.ERROR_REASON_INTERNAL,
            f"On shard {shard!r} a right is missing: {refused_right(error, 'rowcall_gateway (a gateway) or rowcall_worker (a worker)')}",
        )
    if of_a_row(error):
        return RowcallError(
            ErrorReason.ERROR_REASON_INTERNAL,
            f"Shard {shard!r} refused the row (SQLSTATE {state or 'none'}, {type(error).__name__}); nothing was written. "
            "A value of the call does not fit the table, which should have been refused earlier; please report it.",
        )
    if isinstance(error, (psycopg.OperationalError, OSError)):
        # The pool gave no connection in time, the server refuses or ended one, is out of resources or read-only.
        return RowcallError(
            ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE,
            f"Shard {shard!r} cannot be reached or does not serve ({_what(error)}). Call again later.",
            metadata={"shard": shard},
        )
    if sessions.may_pass_elsewhere(error) or (state is not None and state.startswith("53")):
        # A standby's answer, or a session's that does not know its prepared statements any more.
        return RowcallError(
            ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE,
            f"Shard {shard!r} does not take this now ({_what(error)}). Call again later.",
            metadata={"shard": shard},
        )
    return RowcallError(
        ErrorReason.ERROR_REASON_INTERNAL,
        f"Shard {shard!r} failed ({_what(error)}). The process's log has it under the trace id.",
    )


def _what(error: BaseException) -> str:
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    return type(error).__name__ if state is None else f"{type(error).__name__}, SQLSTATE {state}"
