"""Settings of a database that are legal, and that nothing of ours may depend on."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

HOSTILE: Mapping[str, str] = {
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "client_encoding": "LATIN1",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "search_path": "nowhere",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "client_min_messages": "error",
    "default_transaction_isolation": "serializable",
    "plpgsql.extra_errors": "all",
}


def make_hostile(dsn: str, changes: Mapping[str, str] = HOSTILE) -> None:
    """Has the sessions of a database begin with settings, whatever their login; from the next ones on."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        for name, value in changes.items():
            said = sql.SQL("alter database {} set {} = {}").format(
                sql.Identifier(admin.info.dbname),
                sql.SQL(name),
                sql.Literal(value),
            )
            admin.execute(said)
