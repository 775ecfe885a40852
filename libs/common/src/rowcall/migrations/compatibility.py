"""Whether a service and a database fit: called at a service's start, on each database it is to use.

A service runs with a schema one version older or newer than its own, so that gateways, workers and databases can be
upgraded one after another; beyond that it refuses. Of a newer one only `pre` may have been applied: `post` takes away
what this release stands on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg

from rowcall.errors import RowcallError
from rowcall.migrations import record
from rowcall.migrations.discovery import KINDS, Kind, Migration, discover, newest
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
    names = {kind: {each.name for each in discover(kind)} for kind in KINDS}
    shared = set.intersection(*names.values())
    return [kind for kind, own in names.items() if (own - shared) & set(applied)]


def incompatibility(
    kind: Kind, applied: Mapping[str, Applied], migrations: Sequence[Migration] | None = None
) -> str | None:
    """What is wrong with a database, and what to do; None if it fits.

    Args:
        kind: What it should be.
        applied: What was applied to it.
        migrations: What the release brings that is to work with it; None: this one.
    """
    known = discover(kind) if migrations is None else migrations
    own = newest(known)
    there = kinds_of(applied)
    if there and kind not in there:
        return f"it is a {there[0]}. Check which connection string belongs to what."
    if not applied:
        return 'it has no schema of ours. Run "rowcall migrate", or check the connection string.'
    later = max(each.version for each in applied.values())
    if later > own + 1:
        return f"its schema is of version {later}, and this release works up to {own + 1}. Upgrade this service."
    contracted = [each.name for each in applied.values() if each.version > own and each.phase == "post"]
    if contracted:
        return (
            f"{', '.join(contracted)} took away what version {own} of the schema has, and this release is written for "
            "that. Upgrade this service."
        )
    # What the release before this one needed must be there in full; its own version may still be on its way.
    needed = max(own - 1, 1)
    missing = [
        each.name for each in known if each.phase == "pre" and each.version <= needed and each.name not in applied
    ]
    if missing:
        return f'{", ".join(missing)} were not applied. Run "rowcall migrate".'
    return None
