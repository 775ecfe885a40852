"""The routes that a process remembers: bounded, least recently used first out. Held by the directory."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic

from rowcall.sharding.model import Route


@dataclass(slots=True)
class _Entry:
    route: Route
    fresh_until: float


class RouteCache:
    """Routes by tenant. Age alone removes nothing: an old route is served until a later one is known."""

    def __init__(self, *, ttl: float, size: int) -> None:
        """`ttl`: seconds after which a route is worth looking up again; `size`: how many are remembered."""
        self._ttl = ttl
        self._size = size
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, tenant: str) -> Route | None:
        """What is known of a tenant, however old."""
        entry = self._entries.get(tenant)
        if entry is None:
            return None
        self._entries.move_to_end(tenant)
        return entry.route

    def is_fresh(self, tenant: str) -> bool:
        """Whether a tenant's route need not be looked up again yet."""
        entry = self._entries.get(tenant)
        return entry is not None and monotonic() < entry.fresh_until

    def learn(self, route: Route) -> Route:
        """Remembers a route unless a later one is known; answers with the one that is remembered."""
        entry = self._entries.get(route.tenant)
        if entry is None or entry.route.epoch <= route.epoch:
            entry = self._entries[route.tenant] = _Entry(route, 0)
        self.renew(route.tenant)
        self._entries.move_to_end(route.tenant)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return entry.route

    def renew(self, tenant: str) -> None:
        """Has a tenant's route looked up again after the time to live, more or less: not all at the same moment."""
        entry = self._entries.get(tenant)
        if entry is not None:
            entry.fresh_until = monotonic() + self._ttl * random.uniform(0.8, 1.2)  # noqa: S311 - no secret

    def forget(self, tenant: str, epoch: int) -> None:
        """Forgets a route that turned out wrong, unless a later one is known by now."""
        entry = self._entries.get(tenant)
        if entry is not None and entry.route.epoch <= epoch:
            del self._entries[tenant]
