"""What a shard's server gives of what only sharpens: found once, when a service joins, and told in one line of the log.

Everything works without; the line says what is done later, dearer or not noticed then. Another warns of a login that may do
more than a service needs. Called by the provider's `check`.
What upkeep may not ask for is kept by the shard itself (`rowcall.find_lacks`), so that no beat asks for it in vain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection

from rowcall.queue.postgres.statements import statement
from rowcall.settings import ClusterSettings

_log = structlog.get_logger(__name__)

_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "locks": "pg_locks is withheld from rowcall_owner: jobs of a killed worker are taken back when its lease is over, not "
        "within 3 s",
        "timeline": "pg_current_wal_lsn() or pg_walfile_name(pg_lsn) is withheld from rowcall_owner: the promotion of a "
        "standby is not noticed, and workers that are cut off by it for more than two seconds may be taken for dead",
        "start": "pg_postmaster_start_time() is withheld from rowcall_owner: a restart is not noticed, and workers that are "
        "cut off by it for more than two seconds may be taken for dead",
    }
)
"""What `rowcall.find_lacks` names, in words."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found of one shard's server, as one login reaches it."""

    version: str
    """Postgres's own, as "18.1"."""
    durability: str
    """synchronous_commit as the login has it, and whether a standby is waited for."""
    lacks: Sequence[str]
    """What is done without, and what that means; a sentence each, without its full stop."""
    exceeds: str | None
    """What the service's login is, beyond what its role lets it do; None: nothing."""


async def find_capabilities(connection: AsyncConnection[Any], settings: ClusterSettings) -> Capabilities:
    """Asks a shard's server.

    Args:
        connection: A session as the service's login has it.
        settings: The service's: what they say is not asked.

    Raises:
        psycopg.Error: The server does not answer, or the schema is another.
    """
    cursor = await connection.execute(statement("capabilities"), prepare=False)
    row = await cursor.fetchone()
    if row is None:
        raise psycopg.OperationalError("the server says nothing of itself")
    refused, version, pid, notifies, level, has_standby, is_superuser, is_owner = row
    # A pooler makes up the process that it says the session has: that of the server is behind it.
    pooled = connection.info.backend_pid != pid
    lacks = [_REFUSED[name] for name in refused]
    if settings.transaction_pooler:
        lacks.append(
            "a pooler in transaction mode is set: there are no hints and no session stands for a worker, so that jobs of a "
            "killed one are taken back when its lease is over"
        )
    elif pooled:
        lacks.append(
            "a pooler is in the way that the settings do not tell of: if it is in transaction mode, ROWCALL_TRANSACTION_POOLER "
            "must say so, else sessions stand for others' workers and hints are lost"
        )
    if settings.uses_hints and not notifies:
        lacks.append(
            "pg_notify(text, text) is withheld from this login: there are no hints, and jobs begin up to a poll later"
        )
    elif not settings.hints:
        lacks.append("hints are switched off: jobs begin up to a poll later")
    if settings.prepare_after is None:
        lacks.append("nothing is prepared: each statement is planned anew")
    durability = f"synchronous_commit = {level}, {'with' if has_standby else 'without'} a synchronous standby"
    exceeds = "a superuser" if is_superuser else "a member of rowcall_owner" if is_owner else None
    return Capabilities(version=version.split()[0], durability=durability, lacks=lacks, exceeds=exceeds)


def tell(found: Capabilities, *, shard: str) -> None:
    """Says in one line of the log what was found."""
    log = _log.bind(shard=shard, version=found.version, durability=found.durability)
    if found.lacks:
        log.warning("the shard's server is used without all that sharpens", lacks=list(found.lacks))
    else:
        log.info("the shard's server gives all that is made use of")
    if found.exceeds is not None:
        _log.warning(
            "the login of this service may do more than a service needs: give it one that was granted rowcall_gateway or "
            "rowcall_worker and nothing else",
            shard=shard,
            login_is=found.exceeds,
        )
