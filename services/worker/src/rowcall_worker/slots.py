"""How many jobs a worker may run at once: counted places that claimers take before they claim.

One `Slots` for handlers in the event loop, one for those in threads. All of it happens in the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """Counted places, waited for in turn."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free = capacity
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._woken = 0
        """How many were woken and have not run yet."""

    @property
    def capacity(self) -> int:
        """How many there are."""
        return self._capacity

    @property
    def free(self) -> int:
        """How many are free now."""
        return self._free

    def take(self, most: int) -> int:
        """Takes up to so many; how many it got. While others wait, one takes no more than an even share."""
        share = max(self._free // (len(self._waiting) + self._woken + 1), 1)
        taken = min(most, share, self._free)
        self._free -= taken
        return taken

    def give(self, count: int) -> None:
        """Gives places back, and wakes those that wait, one after the other."""
        self._free += count
        self._wake()

    async def wait(self) -> None:
        """Waits until a place is free; take it before awaiting anything else, or it may be gone."""
        while self._free == 0:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future.cancelled():
                    self._waiting.remove(future)
                else:
                    # It was woken and will not take its place: the next has its turn.
                    self._woken -= 1
                    self._wake()
                raise
            self._woken -= 1
        if self._free > 1:
            self._wake()

    def _wake(self) -> None:
        while self._waiting and self._free:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                self._woken += 1
                return
