"""What a failure to reach the catalogue or a shard is to the caller. Called by all of `rowcall.sharding`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import errors

from rowcall.errors import RowcallError
from rowcall.security import database_tls
from rowcall.security.passwords import UnreadablePassword
from rowcall.v1.error_reason_pb2 import ErrorReason

_REFUSED_LOGIN: Final = re.compile(
    r'authentication failed for user|(database|role) ".*" does not exist'
    r"|no pg_hba\.conf entry|pg_hba\.conf rejects|is not permitted to log in|permission denied for database"
)

_NO_PASSWORD: Final = "no password supplied"  # noqa: S105 - what libpq says

RETRY_AFTER: Final = timedelta(seconds=1)
"""When to call again after a refusal that passes by itself."""


def shard_unavailable(shard: str, why: str) -> RowcallError:
    """The shard of the tenant cannot be used now."""
    return RowcallError(
        ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE,
        f"Shard {shard!r} {why}. Call again later.",
        metadata={"shard": shard},
        retry_after=RETRY_AFTER,
    )


def catalogue_unavailable(why: str) -> RowcallError:
    """It cannot be told where the tenant lives."""
    return RowcallError(
        ErrorReason.ERROR_REASON_CATALOGUE_UNAVAILABLE,
        f"The catalogue of tenants cannot be reached{why}. Call again later.",
        retry_after=RETRY_AFTER,
    )


def refused_login(error: BaseException) -> str | None:
    """What a server that was reached says against a connection string: password, role, database, pg_hba.conf or TLS; and what to
    look at.

    None where it is something else, which may pass by itself: the server is away, starting or full.
    """
    if not isinstance(error, psycopg.OperationalError):
        return None
    # A connection that fails has no SQLSTATE in libpq, only the server's text; a server that speaks another language
    # is taken for one that is away. With several hosts, the last one's word counts.
    if isinstance(error, UnreadablePassword):
        return str(error)
    said = str(error).strip().rpartition("FATAL:")[2].strip().partition("\n")[0]
    todo = database_tls.advice(error)
    if todo is not None:
        return f"{said}. {todo}"
    if _NO_PASSWORD in said:
        return f"{said}. Name it in ROWCALL_PASSWORD_FILE or passfile; libpq ignores a passfile that others than its owner may read"
    return said if _REFUSED_LOGIN.search(said) else None


def wrong_shard(tenant: str, why: str) -> RowcallError:
    """The tenant's shard refuses it, and no other takes it."""
    return RowcallError(
        ErrorReason.ERROR_REASON_WRONG_SHARD,
        f"Tenant {tenant!r} {why}. Call again.",
        retry_after=RETRY_AFTER,
    )


def tenant_erased(tenant: str) -> RowcallError:
    """The tenant was erased, or is being, and takes no calls."""
    return RowcallError(
        ErrorReason.ERROR_REASON_TENANT_ERASED,
        f"Tenant {tenant!r} was erased, or is being erased, and takes no calls until an admin opens it again (ReopenTenant).",
        metadata={"tenant": tenant},
    )


def is_wrong_shard(error: RowcallError) -> bool:
    """Whether a shard refused a tenant that does not live there."""
    return error.reason == ErrorReason.ERROR_REASON_WRONG_SHARD


def is_catalogue_away(error: RowcallError) -> bool:
    """Whether it is the catalogue that cannot be reached."""
    return error.reason == ErrorReason.ERROR_REASON_CATALOGUE_UNAVAILABLE


def refused_right(error: errors.InsufficientPrivilege, role: str) -> str:
    """Which right was refused, in the server's words, and what the operator must grant to whom.

    Args:
        error: Says what was refused: names of objects, nothing of any row.
        role: What the login of the service should have been granted.
    """
    what = error.diag.message_primary or "it was not said which"
    if "pg_" in what:
        # Functions of ours run as their owner, whoever calls them.
        return f"{what}. It is Postgres's own: the operator must grant it to rowcall_owner, which Rowcall's functions run as."
    return f"{what}. The operator must grant the login of this service {role}."


def failure(database: str, error: Exception, unreachable: RowcallError) -> RowcallError:
    """What the failure of a lookup is: the database did not answer (`unreachable`), or it refused the statement."""
    if not isinstance(error, psycopg.Error) or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return unreachable
    if isinstance(error, errors.UndefinedTable | errors.UndefinedFunction | errors.InvalidSchemaName):
        return RowcallError(
            ErrorReason.ERROR_REASON_SCHEMA_MISMATCH,
            f'The schema of {database} is missing or too old. The operator must run "rowcall migrate".',
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return RowcallError(
            ErrorReason.ERROR_REASON_INTERNAL,
            f"On {database} a right is missing: {refused_right(error, 'rowcall_gateway')}",
        )
    return RowcallError(
        ErrorReason.ERROR_REASON_INTERNAL,
        f"A lookup of {database} was refused ({error.sqlstate or type(error).__name__}).",
    )
