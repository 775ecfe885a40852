"""The one place that chooses how a shard's queue is kept. And where spans are kept. Called where a service is put together, and nowhere else.

Everything above works with `rowcall.queue.protocol` alone; another implementation is another line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rowcall.queue.postgres.provider import PostgresQueueProvider
from rowcall.queue.protocol import QueueProvider
from rowcall.settings import ClusterSettings
from rowcall.sharding import Shard

if TYPE_CHECKING:
    from rowcall.telemetry.activity import ActivityLog


def activity_of(settings: ClusterSettings, *, service: str) -> Sequence[ActivityLog]:
    """Where the shards keep spans, each over a connection of its own.

    Args:
        settings: The service's.
        service: What its connections are called.
    """
    # What spans are made of is a good part of a start, where nobody has asked for any.
    from rowcall.queue.postgres.activity import PostgresActivityLog

    return [PostgresActivityLog(shard, settings, service=service) for shard in settings.shards]


def queue_of(shard: Shard, settings: ClusterSettings) -> QueueProvider:
    """The queue of one shard, as this process has it.

    Args:
        shard: Of an open router.
        settings: The service's.
    """
    return PostgresQueueProvider(shard, settings)
