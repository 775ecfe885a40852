"""Looks at the schema of every database at the gateway's start. Called by `server`."""

from __future__ import annotations

import asyncio

import psycopg
import structlog

from rowcall.migrations import Kind, check_schema
from rowcall.settings import ClusterSettings, Dsn
from rowcall.sharding import Router
from rowcall.sharding.pools import connection_string

_log = structlog.get_logger(__name__)


async def check_schemas(settings: ClusterSettings, router: Router) -> None:
    """Refuses databases of a schema that this release cannot work with. One that cannot be reached is passed over.

    Raises:
        RowcallError: SCHEMA_MISMATCH, with what to do.
    """
    catalogue = connection_string(settings.catalogue, settings, application="rowcall-gateway start")
    async with asyncio.TaskGroup() as group:
        checks = [group.create_task(_check("catalogue", "catalogue", None, catalogue))]
        for name, shard in router.shards.items():
            checks.append(group.create_task(_check(f"shard {name}", "shard", name, shard.connection_string("start"))))
    for check in checks:
        problem = check.result()
        if problem is not None:
            raise problem


async def _check(name: str, kind: Kind, shard: str | None, dsn: Dsn) -> Exception | None:
    """What is wrong with a database; None if it fits or cannot be asked."""
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await check_schema(connection, kind, shard=shard)
    except psycopg.OperationalError as error:
        _log.warning("database unreachable at the start", database=name, error=type(error).__name__)
    except Exception as error:  # noqa: BLE001 - each is raised by the caller, the first one in order
        return error
    return None
