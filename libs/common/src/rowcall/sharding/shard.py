"""One shard: its name, and its pools by workload. Made by the router; used by everything that talks to a shard."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import partial
from typing import Final

from rowcall.settings import ClusterSettings, Dsn
from rowcall.sharding.faults import shard_unavailable
from rowcall.sharding.model import Workload
from rowcall.sharding.pools import STATEMENT_TIMEOUTS, Pool, connection_string

_RIDE_OUT: Final = 3.0
"""Seconds of a shard's outage that calls wait for its end: about what a restart or a switch-over takes."""


class Shard:
    """A database that holds jobs, as this process reaches it."""

    name: str
    """Its name in the settings."""

    def __init__(self, name: str, settings: ClusterSettings, *, service: str, workloads: Collection[Workload]) -> None:
        self.name = name
        self._settings = settings
        self._service = service
        sizes = pool_sizes(settings)
        self._pools: Mapping[Workload, Pool] = {
            workload: Pool(
                self.connection_string(workload.value, workload),
                settings,
                name=f"{name} {workload.value}",
                size=sizes[workload],
                unavailable=partial(shard_unavailable, name),
                ride_out=_RIDE_OUT,
                lent=workload is Workload.TRANSACTION,
            )
            for workload in Workload
            if workload in workloads
        }

    def pool(self, workload: Workload) -> Pool:
        """The pool of a workload.

        Raises:
            LookupError: The router was opened without it.
        """
        pool = self._pools.get(workload)
        if pool is None:
            raise LookupError(f"this router was opened without the workload {workload.value!r}")
        return pool

    def connection_name(self, purpose: str) -> str:
        """What a dedicated connection is called: its application_name, and its name in logs."""
        return f"{self._service} {purpose}"

    def connection_string(self, purpose: str, workload: Workload | None = None) -> Dsn:
        """How to open a dedicated connection, as for LISTEN; its purpose is seen in pg_stat_activity.

        Dedicated connections count: tell `Router.open` how many there will be.
        """
        return connection_string(
            self._settings.shards[self.name],
            self._settings,
            application=self.connection_name(purpose),
            statement_timeout=None if workload is None else STATEMENT_TIMEOUTS[workload],
            lent=workload is Workload.TRANSACTION,
        )

    async def open(self) -> None:
        """Begins to connect, and does not wait for it."""
        for pool in self._pools.values():
            await pool.open()

    async def close(self) -> None:
        """Closes every pool; connections in use are closed when they are given back."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))


def pool_sizes(settings: ClusterSettings) -> Mapping[Workload, int]:
    """How many connections each workload may have on each shard."""
    return {
        Workload.SUBMIT: settings.pool_submit,
        Workload.READ: settings.pool_read,
        Workload.CLAIM: settings.pool_claim,
        Workload.SETTLE: settings.pool_settle,
        Workload.MAINTENANCE: settings.pool_maintenance,
        Workload.TRANSACTION: settings.pool_transaction,
    }
