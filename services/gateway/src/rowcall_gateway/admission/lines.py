"""The line at a bound: who comes when it is full and would have a turn in a moment waits for it, and nobody goes ahead. Called by `admission`.

Whoever is refused and told to come back is away when there is a place, and who was just answered is there: of many callers a few would be
served all the time, and some not for a long while. In a line each is served after all who came before. It is short, for a queue that grows is an outage
with a delay: who would wait longer than `LONGEST_LINE`, or than a quarter of the time that is left to the call, is refused at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from typing import Final

from rowcall_gateway.admission.meters import Measure, Meter

LONGEST_LINE: Final = 2.0
"""Seconds that a call waits for its turn, at most."""

SHARE: Final = 0.25
"""Of the time that is left to a call, what may go into waiting for its turn."""

MOST_CALLS: Final = 2_000
MOST_BYTES: Final = 16 * 2**20
"""What all lines of a gateway hold at a time: calls, and bytes of their requests. One line holds no more than it leaves to the others."""

_WINDOW: Final = 1.0
"""Seconds over which it is counted how fast calls end, while more come than may."""


class Hall:
    """What there is room for, in all lines of a gateway together."""

    def __init__(self) -> None:
        self.calls = 0
        self.size = 0

    def has_room(self, line: Line, size: int) -> bool:
        """Whether another call may stand in a line: it is no longer then than what is left free. One that is alone always may."""
        if not self.calls:
            return True
        return len(line) < MOST_CALLS - self.calls and line.size + size <= MOST_BYTES - self.size


class _Place:
    """A call in a line."""

    __slots__ = ("jobs", "stands", "waits", "wake")

    def __init__(self, jobs: int, wake: asyncio.Future[bool], *, waits: bool) -> None:
        self.jobs = jobs
        self.stands = True
        self.waits = waits
        self.wake = wake


class Line:
    """Who waits at one meter, the first who came first. Used in one event loop."""

    def __init__(self, meter: Meter, hall: Hall) -> None:
        self._meter = meter
        self._hall = hall
        self._waiting: deque[_Place] = deque()
        # Those that will not wait for their jobs, and so need not wait for the place of one that does.
        self._passing = 0
        self.jobs = 0
        self.size = 0
        self.measure = Measure.IN_FLIGHT
        self._timer: asyncio.TimerHandle | None = None
        self._marked_at = float("-inf")
        self._marked = 0
        self._pace: float | None = None

    jobs: int
    """How many those who wait would submit."""
    size: int
    """The bytes of their requests."""
    measure: Measure
    """What the first of them waits for."""

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def turn(self, measure: Measure | None, jobs: int, size: int, seconds: float, *, waits: bool) -> bool:
        """Waits for a turn at the meter, which has taken the call when this answers.

        Args:
            measure: What lets no more in; None: nothing but those who wait already.
            jobs: How many there are in the call.
            size: The bytes of its request.
            seconds: For how long it may wait.
            waits: Whether it will wait for its job.

        Returns:
            Whether it was let in; False at once where it would not be in time, or there is no room in the line.
        """
        now = time.monotonic()
        expected = self._expected(measure, jobs, now, waits=waits)
        # Nearly as long as it may be, a line lets one in of several who come: where it let all in until it is full, those who were just served
        # would have each place that becomes free.
        if expected > seconds * random.uniform(0.5, 1) or not self._hall.has_room(self, size):  # noqa: S311  a lot, no secret
            return False
        loop = asyncio.get_running_loop()
        place = _Place(jobs, loop.create_future(), waits=waits)
        self._waiting.append(place)
        self.jobs += jobs
        self._passing += not waits
        self._meter.line, self._meter.lined = self, True
        self._hall.calls += 1
        self._hall.size += size
        self.size += size
        end = loop.call_later(seconds, _end, place.wake)
        self.serve(now)
        try:
            return await place.wake
        except asyncio.CancelledError:
            if place.wake.done() and not place.wake.cancelled() and place.wake.result():
                self._meter.put_back(jobs, waits=waits)
            raise
        finally:
            end.cancel()
            self._hall.calls -= 1
            self._hall.size -= size
            self.size -= size
            self._leave(place)

    def put_back(self, jobs: int, *, waits: bool) -> None:
        """A call whose turn it was does not come: another bound has no place for it. The next one may."""
        self._meter.put_back(jobs, waits=waits)
        self.serve(time.monotonic())

    def serve(self, now: float) -> None:
        """Lets in whoever may come by now."""
        waiting, meter = self._waiting, self._meter
        while waiting:
            place = waiting[0]
            measure = meter.refuses(now, place.jobs, waits=place.waits)
            if measure is Measure.WAITERS and self._passing:
                place = next(each for each in waiting if not each.waits)
                measure = meter.refuses(now, place.jobs, waits=False)
            if measure is Measure.RATE:
                self._look_in(meter.until(now, place.jobs))
            if measure is not None:
                self.measure = measure
                return
            self._remove(place)
            if not place.wake.done():
                meter.take(now, place.jobs, waits=place.waits)
                place.wake.set_result(True)
        meter.lined = False

    def _leave(self, place: _Place) -> None:
        """Whoever stood there does not any more."""
        if place.stands:
            self._remove(place)
        # Whoever is behind one that left may come where that one could not.
        self.serve(time.monotonic())

    def _remove(self, place: _Place) -> None:
        self._waiting.remove(place)
        place.stands = False
        self.jobs -= place.jobs
        self._passing -= not place.waits

    def _expected(self, measure: Measure | None, jobs: int, now: float, *, waits: bool) -> float:
        """Seconds until a call that came now would have its turn."""
        pace = self._paced(now)
        if measure is None:
            measure = self.measure
            if measure is Measure.WAITERS and not waits:
                return 0.0
        if measure is Measure.RATE:
            return self._meter.until(now, jobs + self.jobs)
        if measure not in {Measure.IN_FLIGHT, Measure.WAITERS}:
            return float("inf")
        places = self._meter.places if measure is Measure.IN_FLIGHT else self._meter.waiting_places
        if pace is None:
            # Nothing is known yet. One behind each place will not be long, or it is known then.
            return 0.0 if len(self._waiting) < places else float("inf")
        return (len(self._waiting) + 1) / pace if pace and places else float("inf")

    def _paced(self, now: float) -> float | None:
        """Calls that end in a second, while more come than may: counted from one that has to wait to the next."""
        elapsed, ended = now - self._marked_at, self._meter.ended - self._marked
        if elapsed <= 2 * _WINDOW:
            if elapsed >= _WINDOW:
                self._pace = ended / elapsed
            elif ended and elapsed > _WINDOW / 10:
                return max(self._pace or 0.0, ended / elapsed)
        if elapsed >= _WINDOW:
            self._marked_at, self._marked = now, self._meter.ended
        return self._pace

    def _look_in(self, seconds: float) -> None:
        # Anew each time: the rate may have become another.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds < float("inf"):
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        self.serve(time.monotonic())


def _end(wake: asyncio.Future[bool]) -> None:
    if not wake.done():
        wake.set_result(False)
