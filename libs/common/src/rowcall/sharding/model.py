"""Routes and workloads, as plain values. Shared by directory, pools and router, and by the services."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Workload(enum.StrEnum):
    """What a connection is for. Each has a pool of its own, so that none can starve another."""

    SUBMIT = "submit"
    """Gateway: writing calls as rows."""
    READ = "read"
    """Gateway: reading jobs, waiting for results, routes."""
    CLAIM = "claim"
    """Worker: taking jobs."""
    SETTLE = "settle"
    """Worker: writing results."""
    MAINTENANCE = "maintenance"
    """Worker: rescue, due jobs, days of history."""
    TRANSACTION = "transaction"
    """Worker: what handlers write in the transactions of their jobs."""


GATEWAY_WORKLOADS = frozenset({Workload.SUBMIT, Workload.READ})
"""What a gateway opens."""

WORKER_WORKLOADS = frozenset({Workload.CLAIM, Workload.SETTLE, Workload.MAINTENANCE, Workload.TRANSACTION})
"""What a worker opens."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a tenant lives."""

    tenant: str
    shard: str
    """The shard's name in the settings."""
    epoch: int
    """1 where it was placed, one more at every move: the higher epoch is the later truth."""


class RouteState(enum.IntEnum):
    """What a shard does with a tenant's writes: rowcall.tenant_route.state."""

    ACTIVE = 1
    """It takes them."""
    FENCED = 2
    """The tenant is being moved away; it refuses them."""
    MOVED = 3
    """The tenant lives elsewhere; it refuses them."""
    ERASED = 4
    """The tenant was erased, or is being: it refuses them, and nobody else takes it."""


@dataclass(frozen=True, slots=True)
class ShardAnswer:
    """What a shard says of a tenant that it knows."""

    epoch: int
    state: RouteState
