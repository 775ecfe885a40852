"""From where a claimer scans a queue's lanes: the low-water mark. Called by the worker's claimer; touches no database.

A claim that always begins at the front of the index walks over every entry of jobs that are gone, and vacuum cannot
remove those while anybody holds an old snapshot. So a claimer begins at a mark that follows what it claimed. Because
transactions commit out of the order of their keys, and because jobs come back, work can appear behind the mark. Sweeps
find it: often from a floor that follows the mark, seldom from the front. Every writer that could have put something behind the
floor has ended (`rowcall.queue.sweeps.Horizon`; a new key is above the lane's frontier), and it only moves up to where a sweep
was through since: what appears late is found from there, however late. Claiming the right jobs in time never depends on where
the mark is: from the front, everything is seen every few seconds, or as seldom as dead entries make it dear.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from rowcall.queue.model import LANES
from rowcall.queue.sweeps import Horizon

LAG = 0.05
"""Seconds by which the mark follows what was claimed: longer than most submits' transactions take. At 20,000 jobs a second
each claim walks over a thousand dead entries for it, while a held snapshot keeps them."""
FLOOR_LAG = 1.0
"""Seconds by which the floor is behind what was claimed when the writers of then had ended. A statement reads the lane's frontier
before it becomes a writer, by so much at most."""
FLOOR_EVERY = 0.2
"""Seconds between scans from the floor while there is work, at least."""
FRONT_EVERY = 5.0
"""Seconds between scans from the front, at least."""
FLOOR_SHARE = 0.03
FRONT_SHARE = 0.005
"""Of the time, at most, goes into scans from the floor and from the front; they come less often when dead entries make
them long."""
FLOOR_WAIT = 60.0
FRONT_WAIT = 3600.0
"""Seconds that is at most: a scan may also have been long because the database was away."""

LONG = 0.5
"""Seconds from which on a scan is long: others are made meanwhile."""

GIVEN_UP = 10.0
"""Seconds from which on a scan without an answer may have been too long: shorter ones had no connection, or lost it."""
FAILED_WAIT = 120.0
"""Seconds until the next scan from the front at most, behind one that was given up."""

FRONTIER = -1
"""In place of an order key: where the lane's frontier is, which is the highest that was claimed. Of a claimer that has no mark,
for it only began, and cannot get through from the front: it finds all but what appeared behind that."""


class Begin(enum.Enum):
    """Where a lane is scanned from."""

    MARK = "mark"
    FLOOR = "floor"
    FRONT = "front"


@dataclass(frozen=True, slots=True)
class Scan:
    """One claim to make."""

    start: tuple[int, ...]
    """The order key to begin at, or FRONTIER, for each lane: `start` of `WorkQueue.claim`."""
    begins: tuple[Begin, ...]
    """What that is, for each lane."""
    floors: tuple[int, ...]
    """Where each lane's floor is to be when this gets through from below it."""
    hints: int
    """How many hints there had been when the scan was made."""
    dear: bool
    """Whether it may take long: it begins further back than at the marks, and the last such scan did."""


class LowWaterMark:
    """The mark of one claimer in one queue. All times are monotonic seconds."""

    def __init__(self, horizon: Horizon) -> None:
        """Args:
        horizon: The shard's.
        """
        self._horizon = horizon
        self._lanes = tuple(_Lane() for _ in LANES)
        self._hints = 0
        self._hints_served = 0
        self._wakes = 0
        self._wakes_served = 0
        self._front_wait = 0.0
        self._floor_wait = 0.0
        self._sweeping = False
        """Whether a scan is under way that begins further back than at the marks: one at a time."""

    def hinted(self) -> None:
        """A hint said that the queue has got ready jobs."""
        self._hints += 1

    def woken(self) -> None:
        """Somebody asked for a look: what he submitted may have been under way for long, and lie behind the marks."""
        self._hints += 1
        self._wakes = self._hints

    def scan(self, now: float) -> Scan:
        """The next claim to make."""
        sealed_at = self._horizon.sealed_at
        floors = tuple(lane.follow(now, sealed_at) for lane in self._lanes)
        begins = (Begin.MARK,) * len(self._lanes)
        if not self._sweeping:
            begins = tuple(lane.begin(now, self._front_wait, self._floor_wait) for lane in self._lanes)
            self._sweeping = _sweeps(begins)
        dear = (Begin.FRONT in begins and self._front_wait * FRONT_SHARE > LONG) or (
            Begin.FLOOR in begins and self._floor_wait * FLOOR_SHARE > LONG
        )
        start = tuple(lane.start(begin) for lane, begin in zip(self._lanes, begins, strict=True))
        return Scan(start, begins, floors, self._hints, dear)

    def claimed(self, scan: Scan, keys: Iterable[tuple[int, int]], *, limit: int, began: float, ended: float) -> None:
        """What a scan got.

        Args:
            scan: The scan that was made.
            keys: Lane and order key of each job that it got.
            limit: How many it could have got.
            began: When the claim was sent.
            ended: When its answer was there.
        """
        highest = [-1] * len(LANES)
        got = 0
        for number, key in keys:
            highest[number - 1] = max(highest[number - 1], key)
            got += 1
        last_lane = max((index for index, key in enumerate(highest) if key >= 0), default=-1)
        for index, (lane, begin, floor) in enumerate(zip(self._lanes, scan.begins, scan.floors, strict=True)):
            # Lanes are scanned one after another until there are enough: was this one, at least up to its mark?
            through = got < limit or index < last_lane or (index == last_lane and highest[index] >= lane.mark)
            lane.scanned(begin, highest[index], floor, through=through, began=began, ended=ended)
        self._took(scan, ended - began)
        if got or all(begin is Begin.FRONT for begin in scan.begins):
            self._hints_served = max(self._hints_served, scan.hints)
        if all(begin is Begin.FRONT for begin in scan.begins):
            self._wakes_served = max(self._wakes_served, scan.hints)
        if scan.hints > self._hints_served or min(scan.hints, self._wakes) > self._wakes_served:
            # There is said to be work, and where we looked there is none: it can only be behind the marks. Who asked for
            # a look may have waited with his commit: what we got may be others', and his behind the marks.
            for lane in self._lanes:
                lane.front_wanted = True

    def failed(self, scan: Scan, *, began: float, ended: float) -> None:
        """A scan got no answer. If it was given up, perhaps for its length, the next one begins elsewhere; else it is made again."""
        if ended - began < GIVEN_UP:
            self._sweeping = self._sweeping and not _sweeps(scan.begins)
            return
        self._took(scan, ended - began)
        # Perhaps the database hung: what a worker has not looked at yet must not wait for an hour.
        self._front_wait = min(self._front_wait, FAILED_WAIT)
        for lane, begin in zip(self._lanes, scan.begins, strict=True):
            lane.failed(begin, ended)

    def reconnected(self) -> None:
        """The database was away: what took long may have been that."""
        self._front_wait = self._floor_wait = 0.0

    def _took(self, scan: Scan, seconds: float) -> None:
        if _sweeps(scan.begins):
            self._sweeping = False
        if Begin.FRONT in scan.begins:
            self._front_wait = min(seconds / FRONT_SHARE, FRONT_WAIT)
        elif Begin.FLOOR in scan.begins:
            self._floor_wait = min(seconds / FLOOR_SHARE, FLOOR_WAIT)

    def next_sweep(self) -> float:
        """When the next scan from the front is due: an idle claimer sleeps no longer than until then."""
        return min(lane.front_due(self._front_wait) for lane in self._lanes)


def _sweeps(begins: Iterable[Begin]) -> bool:
    return any(begin is not Begin.MARK for begin in begins)


class _Lane:
    """What was claimed in one lane, and when."""

    __slots__ = (
        "_floor",
        "_floor_wanted",
        "_highest",
        "_last_floor",
        "_last_front",
        "_rising",
        "_sealed",
        "_sinking",
        "front_wanted",
        "mark",
    )

    def __init__(self) -> None:
        self.mark = 0
        self.front_wanted = False
        self._floor = 0
        self._floor_wanted = False
        self._highest = 0
        self._last_floor = float("-inf")
        self._last_front = float("-inf")
        # The keys that mark and floor are to follow to, with the times between which they were claimed.
        self._rising: deque[tuple[float, float, int]] = deque()
        self._sinking: deque[tuple[float, int]] = deque()
        self._sealed = 0

    def front_due(self, front_wait: float) -> float:
        return self._last_front + (front_wait if self.front_wanted else max(FRONT_EVERY, front_wait))

    def follow(self, now: float, sealed_at: float | None) -> int:
        """Moves the mark; where the floor may be when a sweep that begins now is through."""
        while self._rising and self._rising[0][0] + LAG <= now:
            _, ended, self.mark = self._rising.popleft()
            self._sinking.append((ended, self.mark))
        while sealed_at is not None and self._sinking and self._sinking[0][0] + FLOOR_LAG <= sealed_at:
            self._sealed = self._sinking.popleft()[1]
        return self._sealed

    def begin(self, now: float, front_wait: float, floor_wait: float) -> Begin:
        if now >= self.front_due(front_wait):
            return Begin.FRONT
        # Until the floor has reached what was claimed, something may still commit behind the mark.
        if (self._floor_wanted or self._floor < self._highest) and now >= self._last_floor + max(
            FLOOR_EVERY, floor_wait
        ):
            return Begin.FLOOR
        return Begin.MARK

    def start(self, begin: Begin) -> int:
        return {Begin.MARK: self.mark, Begin.FLOOR: self._floor, Begin.FRONT: 0}[begin]

    def failed(self, begin: Begin, ended: float) -> None:
        if begin is Begin.MARK:
            return
        self._last_floor = ended
        if begin is Begin.FRONT:
            self._last_front = ended
            self.mark = self.mark or FRONTIER
            self._floor = self._floor or FRONTIER

    def scanned(self, begin: Begin, highest: int, floor: int, *, through: bool, began: float, ended: float) -> None:
        if highest > self._highest:
            self._highest = highest
            self._rising.append((began, ended, highest))
        if through and begin is not Begin.MARK:
            self._floor = max(self._floor, floor)
            self._last_floor = ended
            self._floor_wanted = False
            if begin is Begin.FRONT:
                self._last_front = ended
                self.front_wanted = False
        # Where there is traffic there may be stragglers.
        self._floor_wanted = self._floor_wanted or highest >= 0
