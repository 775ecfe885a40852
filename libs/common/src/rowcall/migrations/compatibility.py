"""Whether a service and a database fit: called at a service's start, on each database it is to use.

A service runs with a schema one version older or newer than its own, so that gateways, workers and databases can be
upgraded one after another; beyond that it refuses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import psycopg

from rowcall.errors import RowcallError
from rowcall.migrations import record
from rowcall.migrations.discovery import VERSIONS, Kind, discover
from rowcall.migrations.record import Applied
from rowcall.v1.error_reason_pb2 import ErrorReason

_ROUTES = b"select from rowcall_catalogue.tenant limit 0"
"""Refused to a login that was not granted its role: better at the start than at the first call of each tenant."""

_NAME = b"select shard from rowcall.shard_facts()"


async def check_schema(connection: psycopg.AsyncConnection[Any], kind: Kind, *, shard: str | None = None) -> None:
    """Refuses a database whose schema this release cannot work with, and a shard that is another one.

    Args:
        connection: To the database, as the service's login.
        kind: What the database should be.
        shard: Which shard it should be; None leaves that open. A shard under another's name would be sent the other's
            new tenants.

    Raises:
        RowcallError: SCHEMA_MISMATCH, with what to do.
        psycopg.Error: The database does not answer.
    """
    problem = incompatibility(kind, await record.read(connection))
    if problem is not None:
        raise RowcallError(
            ErrorReason.ERROR_REASON_SCHEMA_MISMATCH,
            f"Database {connection.info.dbname!r} cannot be used as a {kind}: {problem}",
        )
    if kind == "catalogue":
        await connection.execute(_ROUTES)
    if shard is not None:
        row = await (await connection.execute(_NAME)).fetchone()
        if row is not None and row[0] != shard:
            raise RowcallError(
                ErrorReason.ERROR_REASON_SCHEMA_MISMATCH,
                f"Database {connection.info.dbname!r} is the shard {row[0]!r}, not {shard!r}. Check which connection string "
                "belongs to which shard.",
                metadata={"shard": shard},
            )


def kinds_of(applied: Collection[str]) -> list[Kind]:
    """What a database is by the names of what was applied to it; by those that both kinds have it cannot be told."""
    names = {kind: {each.name for each in discover(kind)} for kind in VERSIONS}
    shared = set.intersection(*names.values())
    return [kind for kind, own in names.items() if (own - shared) & set(applied)]


def incompatibility(kind: Kind, applied: Mapping[str, Applied]) -> str | None:
    """What is wrong with a database that has these migrations, and what to do; None if it fits."""
    own = len(VERSIONS[kind])
    there = kinds_of(applied)
    if there and kind not in there:
        return f"it is a {there[0]}. Check which connection string belongs to what."
    if not applied:
        return 'it has no schema of ours. Run "rowcall migrate", or check the connection string.'
    newest = max(each.version for each in applied.values())
    if newest > own + 1:
        return f"its schema is of version {newest}, and this release works up to {own + 1}. Upgrade this service."
    # What the release before this one needed must be there in full; its own version may still be on its way.
    needed = max(own - 1, 1)
    missing = [
        each.name
        for each in discover(kind)
        if each.phase == "pre" and each.version <= needed and each.name not in applied
    ]
    if missing:
        return f'{", ".join(missing)} were not applied. Run "rowcall migrate".'
    return None
