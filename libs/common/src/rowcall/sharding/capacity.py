"""Whether the servers have room for all connections that a program's processes may open. Checked by the router at its start.

Without the check the last process to start, or an operator in an emergency, is the one who gets no connection.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
import structlog
from psycopg import AsyncConnection

from rowcall.security import passwords
from rowcall.settings import Dsn, Problem, SettingsError
from rowcall.sharding.bounded import bounded
from rowcall.sharding.faults import refused_login
from rowcall.sharding.statements import statement

_log = structlog.get_logger(__name__)

WARN_ABOVE: Final = 0.8
"""The part of a server's connections above which one program's maximum is worth a warning."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The most connections that the process opens to one database."""

    database: str
    """"shard 'a'" or "the catalogue"."""
    setting: str
    """Where its connection string stands: "ROWCALL_CATALOGUE (--catalogue)"."""
    dsn: Dsn
    connections: int
    makeup: str
    """How the number comes about, and by which settings: "ROWCALL_POOL_READ 4 + 2 dedicated"."""
    beside: int = 0
    """What a further process may open there, of which the program has one at a time however many it consists of."""


@dataclass(frozen=True, slots=True)
class _Limits:
    server: str
    maximum: int
    reserved: int


async def check_capacity(program: str, demands: Sequence[Demand], *, patience: float, processes: int = 1) -> None:
    """Compares what so many processes like this one may open with what each server allows. Databases of one server are
    added up.

    A server that cannot be reached is logged with the cause, and not checked.

    Raises:
        SettingsError: A server does not know the login or the database, or allows fewer connections than these
            processes alone may open.
    """
    found = await asyncio.gather(*(_limits(demand, patience) for demand in demands))
    refused = [each for each in found if isinstance(each, Problem)]
    if refused:
        raise SettingsError(program, refused)
    limits = [each if isinstance(each, _Limits) else None for each in found]
    by_server: dict[str, list[tuple[Demand, _Limits]]] = defaultdict(list)
    for demand, limit in zip(demands, limits, strict=True):
        if limit is not None:
            by_server[limit.server].append((demand, limit))
    problems = []
    for group in by_server.values():
        limit = group[0][1]
        allowed = limit.maximum - limit.reserved
        beside = sum(demand.beside for demand, _ in group)
        wanted = processes * sum(demand.connections for demand, _ in group) + beside
        figures = "; ".join(f"{demand.database}: {demand.connections} ({demand.makeup})" for demand, _ in group)
        if processes > 1:
            figures += f"; each {processes} times (ROWCALL_PROCESSES)"
        if beside:
            figures += f"; {beside} for a process that runs suspects"
        if wanted > allowed:
            problems.append(
                Problem(
                    "ROWCALL_POOL_*",
                    f"allow {'this process' if processes == 1 else f'{processes} processes'} {wanted} connections to a server that has {allowed} for all "
                    f"(max_connections {limit.maximum} - {limit.reserved} reserved). {figures}. "
                    "Lower them, or raise max_connections.",
                )
            )
        elif wanted > WARN_ABOVE * allowed:
            _log.warning(
                f"{'this process' if processes == 1 else 'these processes'} may take most of a server's connections",
                connections=wanted,
                allowed=allowed,
                databases=figures,
            )
    if problems:
        raise SettingsError(program, problems)


async def _limits(demand: Demand, patience: float) -> _Limits | Problem | None:
    try:
        return await bounded(_read_limits(demand.dsn), patience)
    except (psycopg.Error, TimeoutError, OSError) as error:
        refusal = refused_login(error)
        if refusal is not None:
            return Problem(demand.setting, f"does not open {demand.database}, {demand.dsn}: {refusal}")
        # libpq's message names host, port, user and database, and no password.
        _log.warning(
            "database cannot be reached; trying again in the background",
            database=demand.database,
            cause=str(error).strip(),
        )
        return None


async def _read_limits(dsn: Dsn) -> _Limits:
    async with await passwords.connect(AsyncConnection.connect, dsn, autocommit=True) as connection:
        cursor = await connection.execute(statement("server_limits"))
        (row,) = await cursor.fetchall()
        try:
            cursor = await connection.execute(statement("server_identity"))
            ((server,),) = await cursor.fetchall()
        except psycopg.errors.InsufficientPrivilege:
            # Two names of one server are two servers then, and are not added up.
            server = f"{connection.info.host}:{connection.info.port}"
    return _Limits(maximum=row[0], reserved=row[1], server=server)
