"""The one place that chooses how a shard's queue is kept. Called where a service is put together, and nowhere else.

Everything above works with `rowcall.queue.protocol` alone; another implementation is another line here.
"""

from __future__ import annotations

from rowcall.queue.postgres.provider import PostgresQueueProvider
from rowcall.queue.protocol import QueueProvider
from rowcall.settings import ClusterSettings
from rowcall.sharding import Shard


def queue_of(shard: Shard, settings: ClusterSettings) -> QueueProvider:
    """The queue of one shard, as this process has it.

    Args:
        shard: Of an open router.
        settings: The service's.
    """
    return PostgresQueueProvider(shard, settings)
