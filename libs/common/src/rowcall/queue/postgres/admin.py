"""What operators see of a shard's queues and do to them, on Postgres. One object a shard; called by the gateway."""

from __future__ import annotations

from datetime import timedelta

from rowcall.queue.model import Pause, QueueServing, QueueStats
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.wire.connection import Shield
from rowcall.queue.postgres.wire.types import Pool


class PostgresQueueAdmin:
    """A `rowcall.queue.protocol.QueueAdmin` over one shard's pools. Raises RowcallError."""

    def __init__(
        self, write_pool: Pool, read_pool: Pool, *, shard: str, give_up_after: timedelta = timedelta(seconds=30)
    ) -> None:
        """
        Args:
            write_pool: For what writes.
            read_pool: For what reads.
            shard: The shard's name, for errors.
            give_up_after: How long a statement that writes may take before its connection is given up.
        """
        self._shield = Shield()
        self._write = Session(write_pool, shard=shard, shield=self._shield, give_up_after=give_up_after)
        self._read = Session(read_pool, shard=shard)

    async def stats(self, cap: int) -> list[QueueStats]:
        """See QueueAdmin.stats."""
        return [QueueStats(*row) for row in await self._read.rows("queue_stats", {"cap": cap})]

    async def serving(self, cap: int) -> list[QueueServing]:
        """See QueueAdmin.serving."""
        return [QueueServing(*row) for row in await self._read.rows("queue_serving", {"cap": cap})]

    async def pauses(self, tenant: str) -> list[Pause]:
        """See QueueAdmin.pauses."""
        return [Pause(*row) for row in await self._read.rows("pauses", {"tenant": tenant})]

    async def pause(self, kind: str, name: str, *, by: str | None, note: str | None) -> bool:
        """See QueueAdmin.pause."""
        return await self._set(kind, name, paused=True, by=by, note=note)

    async def resume(self, kind: str, name: str) -> bool:
        """See QueueAdmin.resume."""
        return await self._set(kind, name, paused=False, by=None, note=None)

    async def weigh(self, tenant: str, weight: float) -> bool:
        """See QueueAdmin.weigh."""
        known: bool = await self._write.value("weigh_tenant", {"tenant": tenant, "weight": weight})
        return known

    async def close(self) -> None:
        """Waits for the statements in flight. The pools are their owner's to close, afterwards."""
        await self._shield.wait()

    async def _set(self, kind: str, name: str, *, paused: bool, by: str | None, note: str | None) -> bool:
        statement = {"queue": "pause_queue", "method": "pause_method", "tenant": "pause_tenant"}[kind]
        known: bool = await self._write.value(statement, {"name": name, "paused": paused, "by": by, "note": note})
        return known
