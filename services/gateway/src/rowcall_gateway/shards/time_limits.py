"""Ends waits when their time is up: one timer of the event loop for many waits. Used by `submitter` and `waiters`.

Nearly every wait is over long before its time. A timer and a cancellation scope for each (asyncio.timeout_at) cost a
call more than putting it in line to be written.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from typing import Final, TypeAlias

Wake: TypeAlias = "asyncio.Future[None]"
"""What somebody waits on; done, whatever the reason."""

_SWEPT: Final = 256
"""How many entries there may be before those whose wait is over are looked for, wherever they are."""


class TimeIsUp(Exception):
    """What was waited for did not come in time."""


class TimeLimits:
    """The time limits of many waits, in one event loop."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Wake]] = []
        self._numbers = itertools.count()
        self._most = _SWEPT
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def __len__(self) -> int:
        """How many entries are kept: those whose wait is not over, and at most about as many others."""
        return len(self._heap)

    def end(self, wake: Wake, at: float) -> None:
        """Makes a wait end at a time of the loop, if it is not over before."""
        heap = self._heap
        while heap and heap[0][2].done():
            heapq.heappop(heap)
        if len(heap) >= self._most:
            heap[:] = [entry for entry in heap if not entry[2].done()]
            heapq.heapify(heap)
            self._most = max(_SWEPT, 2 * len(heap))
        heapq.heappush(heap, (at, next(self._numbers), wake))
        if at < self._timer_at:
            self._set_timer(at)

    def close(self) -> None:
        """Ends no wait any more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = math.inf

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._came)
        self._timer_at = at

    def _came(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        now = asyncio.get_running_loop().time()
        heap = self._heap
        while heap:
            at, _, wake = heap[0]
            if not wake.done():
                if at > now:
                    self._set_timer(at)
                    return
                wake.set_result(None)
            heapq.heappop(heap)
