"""From when on what comes round looks: at what is due, at what was asked for. Called by the worker; touches no database.

An index keeps an entry of every row that was there, for as long as somebody holds an old snapshot, and whoever looks from the
front walks over them. So a look in the order of time begins at a mark: at what was due since the look before. What commits
late with an earlier time is behind it; it is found from the floor, behind which nothing can appear any more, because every
writer of then has ended. A look from the front finds what is against all rules (a clock that was set back).

Where that is cheap, and it is wherever vacuum can do its work, every look is from the front. Where it is dear, it takes a fixed
share of the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rowcall.queue.model import Moment

FLOOR_SHARE: Final = 0.03
FRONT_SHARE: Final = 0.01
"""Of the time, at most, goes into looks from the floor and from the front."""
FLOOR_WAIT: Final = 60.0
FRONT_WAIT: Final = 3600.0
"""Seconds between two of them that is at most: one may also have been long because the database was away. What is found
from the front only is against all rules; an hour of dead entries takes half a minute, and more than that is given up."""
MARK_LAG: Final = timedelta(seconds=2)
"""By which the mark is behind the last look: longer than most transactions take."""
FLOOR_LAG: Final = timedelta(seconds=1)
"""By which the floor is behind the time of which every writer has ended. A statement takes the time of a row before it becomes
a writer, by so much at most."""
MOMENTS: Final = 600
"""So many are remembered while one writer stays open."""


class Horizon:
    """Up to when all writers of a shard have ended, from the moments that the worker's renewals bring."""

    def __init__(self) -> None:
        self.latest: datetime | None = None
        """The last moment heard, by the shard's clock."""
        self.sealed: datetime | None = None
        """Every writer of before has ended; by the shard's clock."""
        self.sealed_at: float | None = None
        """The same in monotonic seconds."""
        self._open: deque[tuple[float, Moment]] = deque()

    def heard(self, moment: Moment, asked: float) -> None:
        """What the shard has said.

        Args:
            moment: Its moment.
            asked: When it was asked for, in monotonic seconds.
        """
        if self._open and moment.number < self._open[-1][1].number:
            if moment.at <= self._open[-1][1].at:
                # Said before what was heard meanwhile, of another identity.
                return
            # Another server, that counts anew.
            self._open.clear()
        self.latest = moment.at
        while self._open and self._open[0][1].number <= moment.oldest:
            self.sealed_at, self.sealed = self._open[0][0], self._open[0][1].at
            self._open.popleft()
        if len(self._open) < MOMENTS:
            self._open.append((asked, moment))


class Pace:
    """When the next dear look is due, so that they take no more than a share of the time. Monotonic seconds.

    One that fails counts as one that was made: perhaps it took longer than a statement may.
    """

    def __init__(self, share: float = FRONT_SHARE, most: float = FRONT_WAIT) -> None:
        """
        Args:
            share: Of the time, at most.
            most: Seconds until the next one, at most.
        """
        self._share = share
        self._most = most
        self._due = float("-inf")

    def due(self, now: float) -> bool:
        """Whether one may be made."""
        return now >= self._due

    def made(self, began: float, ended: float) -> None:
        """One was made."""
        self._due = ended + min((ended - began) / self._share, self._most)


@dataclass(frozen=True, slots=True)
class Look:
    """One look to make."""

    since: datetime | None
    """At what is due since then, by the shard's clock; None: from the front."""
    front: bool
    floor: bool
    """Whether it begins at the front, or at the floor."""
    next_mark: datetime | None
    next_floor: datetime | None
    """Where mark and floor are to be when everything was found."""


class Sweep:
    """The looks of one worker at one kind of things in the order of their time."""

    def __init__(self, horizon: Horizon) -> None:
        """
        Args:
            horizon: The shard's.
        """
        self._horizon = horizon
        self._mark: datetime | None = None
        self._floor: datetime | None = None
        self._front_pace = Pace()
        self._floor_pace = Pace(FLOOR_SHARE, FLOOR_WAIT)

    def look(self, now: float) -> Look:
        """The next look to make, at this time."""
        latest, sealed = self._horizon.latest, self._horizon.sealed
        # Only a look from the front can say where the first mark and the first floor are.
        unknown = self._mark is None or (self._floor is None and sealed is not None)
        front = unknown or self._front_pace.due(now)
        floor = not front and self._floor is not None and self._floor_pace.due(now)
        return Look(
            since=None if front else self._floor if floor else self._mark,
            front=front,
            floor=floor,
            next_mark=None if latest is None else latest - MARK_LAG,
            next_floor=None if sealed is None else sealed - FLOOR_LAG,
        )

    def looked(self, look: Look, *, whole: bool, began: float, ended: float) -> None:
        """A look was made.

        Args:
            look: Which one.
            whole: Whether it found all there was: it did not fail, nor find as much as it was allowed.
            began: When it was sent.
            ended: When its answer was there.
        """
        if whole:
            self._mark = _later(self._mark, look.next_mark)
        if look.front:
            self._front_pace.made(began, ended)
        if look.front or look.floor:
            self._floor_pace.made(began, ended)
            if whole:
                self._floor = _later(self._floor, look.next_floor)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return other if one is None or (other is not None and other > one) else one
