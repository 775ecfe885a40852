"""The one place that chooses how a shard's queue is kept. And where spans are kept. Called where a service is put together, and nowhere else.

Everything above works with `rowcall.queue.protocol` alone; another implementation is another line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rowcall.queue.postgres.provider import PostgresQueueProvider
from rowcall.queue.protocol import QueueProvider
from rowcall.settings import ClusterSettings
from rowcall.sharding import Shard

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter


def exporters_of(settings: ClusterSettings, *, service: str) -> Mapping[str, SpanExporter]:
    """What has the shards keep spans, over connections of its own, by what spans are counted by that it does not take; nothing where the
    setting does not say so.

    Args:
        settings: The service's.
        service: What the connections are called.
    """
    if not settings.activity:
        return {}
    # What spans are made of is a good part of a start, where nobody has asked for any.
    from rowcall.queue.postgres.activity import PostgresActivityLog
    from rowcall.telemetry.activity import ACTIVITY, ActivityExporter

    logs = [PostgresActivityLog(shard, settings, service=service) for shard in settings.shards]
    return {ACTIVITY: ActivityExporter(logs)}


def queue_of(shard: Shard, settings: ClusterSettings) -> QueueProvider:
    """The queue of one shard, as this process has it.

    Args:
        shard: Of an open router.
        settings: The service's.
    """
    return PostgresQueueProvider(shard, settings)
