"""How many jobs a worker may run at once: counted places that claimers take before they claim.

One `Slots` for handlers in the event loop, one for those in threads, and a `Cap` for each queue that may not have them
all. All of it happens in the event loop.

Where jobs are quick, a claim takes longer than they do, and slots would be free meanwhile. So claimers may take a few
places more than are free, as many as come free within hundredths of a second: jobs that are claimed ahead (what others
call prefetch) stand in line for a slot.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

AHEAD: Final = 0.01
"""Seconds of work, at the pace of late, that may be claimed ahead: about what a claim takes."""
MOST_AHEAD: Final = 400
"""Jobs claimed ahead, at most."""
_PACE: Final = 0.02
"""Seconds over which the pace is measured, at least."""


class Slots:
    """Counted places, waited for in turn."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free = capacity
        """Below zero while jobs are claimed ahead."""
        self._running = 0
        """How many are in use: of attempts that have begun, until their handlers have returned."""
        self._line: deque[Callable[[], bool]] = deque()
        self._ahead = 0
        self._ended = 0
        self._paced_at = time.monotonic()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._woken = 0
        """How many were woken and have not run yet."""
        self._stuck = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def capacity(self) -> int:
        """How many there are."""
        return self._capacity

    @property
    def free(self) -> int:
        """How many are free now."""
        return max(self._free, 0)

    @property
    def used(self) -> int:
        """How many handlers run in them now."""
        return self._running

    @property
    def ahead(self) -> int:
        """How many jobs may be claimed beyond the free slots: as many as end while a claim is made, at the pace of late."""
        now = time.monotonic()
        if now >= self._paced_at + _PACE:
            self._ahead = min(int(self._ended / (now - self._paced_at) * AHEAD), MOST_AHEAD)
            self._paced_at, self._ended = now, 0
        return self._ahead

    @property
    def room(self) -> int:
        """How many jobs may be claimed now."""
        return max(self._free + self.ahead, 0)

    @property
    def stuck(self) -> int:
        """How many are taken by handlers that go on although their attempts are over."""
        return self._stuck

    @property
    def running(self) -> int:
        """How many are taken by attempts that are not over, by claims, or ahead."""
        return self._capacity - self._free - self._stuck

    def take(self, most: int) -> int:
        """Takes up to so many; how many it got. While others wait, one takes no more than an even share."""
        room = self.room
        taken = min(most, max(room // (len(self._waiting) + self._woken + 1), 1), room)
        self._free -= taken
        self._look()
        return taken

    def give(self, count: int) -> None:
        """Gives places back, and wakes those that wait, one after the other."""
        self._free += count
        self._look()
        self._wake()

    def pass_on(self) -> None:
        """Whoever waited for room has no use for it after all: the next one has its turn."""
        self._wake()

    def run(self, begin: Callable[[], bool]) -> None:
        """Has an attempt, whose place was taken, begin as soon as a slot is not in use; `begin` says if it still wants to.

        `done` must follow when its handler has returned.
        """
        if self._running < self._capacity:
            self._running += begin()
        else:
            self._line.append(begin)

    def done(self) -> None:
        """A handler has returned: the next in line has its slot."""
        self._ended += 1
        while self._line:
            if self._line.popleft()():
                return
        self._running -= 1

    def stick(self) -> None:
        """The attempt that has one is over, and its handler goes on."""
        self._stuck += 1
        self._look()

    def unstick(self) -> None:
        """Such a handler has ended; its place is given back beside."""
        self._stuck -= 1
        self._look()

    async def quiet(self) -> None:
        """Waits until no attempt has one that is not over."""
        await self._quiet.wait()

    async def wait(self) -> None:
        """Waits until there is room; take it before awaiting anything else, or it may be gone."""
        while not self.room:
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
        if self.room > 1:
            self._wake()

    def _look(self) -> None:
        if self.running:
            self._quiet.clear()
        else:
            self._quiet.set()

    def _wake(self) -> None:
        while self._waiting and self.room:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                self._woken += 1
                return


class Cap:
    """The most jobs of one queue that run at once in this process, on whichever shard and in whichever slots."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        """How many may run at once."""
        self._free = capacity
        self._wake: list[Callable[[], None]] = []

    @property
    def free(self) -> int:
        """How many more may run."""
        return self._free

    def when_freed(self, wake: Callable[[], None]) -> None:
        """Has this called whenever a place comes free where there was none."""
        self._wake.append(wake)

    def take(self, count: int) -> None:
        """Takes so many, of those that are free."""
        self._free -= count

    def give(self, count: int) -> None:
        """Gives so many back."""
        was_full = self._free <= 0
        self._free += count
        if was_full and count:
            for wake in self._wake:
                wake()
