"""Looks at the schema of every database at the gateway's start. Called by `server`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import psycopg
import structlog

from rowcall.errors import RowcallError
from rowcall.migrations import check_schema
from rowcall.queue.protocol import QueueProvider
from rowcall.security import passwords
from rowcall.settings import ClusterSettings
from rowcall.sharding.durability import check_durability
from rowcall.sharding.faults import catalogue_unavailable, failure
from rowcall.sharding.pools import connection_string
from rowcall.v1.error_reason_pb2 import ErrorReason

_log = structlog.get_logger(__name__)


async def check_schemas(settings: ClusterSettings, queues: Iterable[QueueProvider]) -> None:
    """Refuses databases of a schema that this release cannot work with. One that cannot be reached is passed over.

    Raises:
        RowcallError: SCHEMA_MISMATCH and others, with what to do.
    """
    async with asyncio.TaskGroup() as group:
        checks = [group.create_task(_check_catalogue(settings))]
        checks += [group.create_task(_check_shard(queue)) for queue in queues]
    for check in checks:
        problem = check.result()
        if problem is not None:
            raise problem


async def _check_catalogue(settings: ClusterSettings) -> Exception | None:
    """What is wrong with the catalogue; None if it fits or cannot be asked."""
    dsn = connection_string(settings.catalogue, settings, application="rowcall-gateway start")
    try:
        async with await passwords.connect(psycopg.AsyncConnection.connect, dsn, autocommit=True) as connection:
            await check_schema(connection, "catalogue")
            await check_durability(connection, settings, database="the catalogue")
    except psycopg.OperationalError as error:
        _passed_over("catalogue", error)
    except psycopg.Error as error:
        return failure("the catalogue", error, catalogue_unavailable(""))
    except Exception as error:  # noqa: BLE001 - each is raised by the caller, the first one in order
        return error
    return None


async def _check_shard(queue: QueueProvider) -> Exception | None:
    """What is wrong with a shard; None if it fits or cannot be asked."""
    try:
        await queue.check()
    except RowcallError as error:
        if error.reason != ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE:
            return error
        _passed_over(f"shard {queue.shard}", error.__cause__ or error)
    except Exception as error:  # noqa: BLE001 - as above
        return error
    return None


def _passed_over(database: str, error: BaseException) -> None:
    _log.warning("database unreachable at the start", database=database, error=type(error).__name__)
