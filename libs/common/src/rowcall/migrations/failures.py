"""Says what a failed migration left behind and what to do about it. Called by the runner."""

from __future__ import annotations

import psycopg

from rowcall.migrations.discovery import Migration
from rowcall.migrations.errors import MigrationError

_KEPT = "The file was rolled back; the files before it stay. Put it right and run the migration again: it goes on here."
_KEPT_WITHOUT_TRANSACTION = (
    "The file runs without a transaction, so part of it may have stayed (an invalid index: drop it). Then run the "
    "migration again: it goes on here."
)


def failed(error: psycopg.Error, where: str | Migration, kept: str | None = None) -> MigrationError:
    """What to tell the operator; the caller raises it from the error.

    Args:
        error: What the database said.
        where: The file, or what was done instead of one.
        kept: The state of the database, where `where` does not say it.
    """
    if isinstance(where, Migration):
        place = f"{where.kind}/{where.name}.sql{_line(error, where)}"
        kept = _KEPT if where.in_transaction else _KEPT_WITHOUT_TRANSACTION
    else:
        place = where
    return MigrationError(f"{place}: {_said(error)} {kept or ''} {_advice(error)}".strip())


def _said(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error).strip() or type(error).__name__
    hint = error.diag.message_hint
    return f"{message}." if hint is None else f"{message}. {hint}"


def _advice(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return (
            'The login lacks a right: it must own the database and act as rowcall_owner. "rowcall migrate --roles=check" says '
            "what is missing, and who mends it."
        )
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return (
            "Other sessions hold the locks it needs for long: find them in pg_stat_activity, or try at a quieter time."
        )
    if error.sqlstate is None:
        return "The connection was lost: check the server."
    return ""


def _line(error: psycopg.Error, migration: Migration) -> str:
    position = error.diag.statement_position
    if position is None:
        return ""
    return f", line {migration.text[: int(position) - 1].count(chr(10)) + 1}"
