"""How much of one bound this gateway lets in, and how much it is asked for. Kept by `admission`, leased by `leases`.

All times are monotonic seconds. What a call is held against is in fields that `passes` compares and counts up by itself, for there are as many
meters at a call as there are bounds on it; everything that is shared with other gateways comes once a second.
"""

from __future__ import annotations

import sys
from collections import Counter
from datetime import timedelta
from enum import StrEnum
from typing import Final, Protocol

from rowcall.bounds import Bound, Target
from rowcall.queue.model import NOBODY_NEEDS, Need, OthersNeed, QueueLoad, Spending
from rowcall_gateway.admission.shares import LAPSED, places, rate_share

LEASE: Final = 2.5
"""Seconds for which a share is good: two that could not be renewed, and a half for the answer of a third."""

IDLE: Final = 10.0
"""Seconds after which a meter that nobody asks is forgotten."""

SHORTEST: Final = 0.3
LONGEST: Final = 2.4
"""Seconds after which a refused caller is told to call again, before they are spread by a quarter: under 3 s for everybody."""

NEW: Final = 2.0
"""Seconds for which a meter is new: until then others may be asked for the same and have not told of it yet."""

ANY: Final = sys.maxsize
"""Places, where there is no bound on them."""

_SMOOTHING: Final = 0.5
"""Of what is needed, how much the last second counts."""

_SLACK: Final = 1e-6
"""Seconds by which a turn may come early: what sums of seconds are out by."""


class Measure(StrEnum):
    """What of a bound lets no more in."""

    RATE = "rate"
    IN_FLIGHT = "in_flight"
    WAITERS = "waiters"
    BACKLOG = "backlog"
    OLDEST_AGE = "oldest_age"
    BUDGET = "budget"


class Served(Protocol):
    """Calls that wait for a turn at a meter: a `lines.Line`."""

    jobs: int
    """How many they would submit."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def serve(self, now: float) -> None:
        """Lets in whoever may come by now."""


class Meter:
    """One bound on one tenant, queue, method or pair, on one shard, as this gateway goes by it."""

    __slots__ = (
        "_asked_at",
        "_begun",
        "_burst",
        "_extra",
        "_in_flight_refused",
        "_jobs_refused",
        "_lease_until",
        "_load",
        "_made",
        "_need",
        "_others",
        "_seen",
        "_spending",
        "_told",
        "_waiters_refused",
        "bound",
        "ended",
        "entered",
        "full_at",
        "interval",
        "line",
        "lined",
        "most",
        "places",
        "refused",
        "room",
        "target",
        "waiters",
        "waiting_places",
    )

    bound: Bound
    """What it is of, as it was set."""
    target: Target
    """The same with the tenant's name, where the bound is of each tenant."""
    entered: int
    """Calls that were let in, ever."""
    ended: int
    """Those of them that have ended."""
    places: int
    """Calls that may be served at a time."""
    waiters: int
    """Calls that wait for their jobs."""
    waiting_places: int
    """Calls that may wait at a time."""
    interval: float
    """Seconds between two jobs at the rate that is this gateway's share; infinite where that is none, 0 where there is no bound on it."""
    full_at: float
    """When a second's worth will have gathered again: each job puts it off by an interval."""
    room: float
    """How far ahead that may be for a job to be let in, in seconds."""
    most: int
    """Up to how many calls in all may enter until the queue is looked at again."""
    line: Served | None
    """Who waits for a turn here; None while nobody ever has."""
    lined: bool
    """Whether anybody does now: then nobody goes ahead of them."""
    refused: Counter[Measure]
    """Calls that were refused since the log told of them last."""

    def __init__(self, bound: Bound, target: Target, now: float, other_gateways: int = 0) -> None:
        """
        Args:
            bound: What it goes by.
            target: What it is of.
            now: The time.
            other_gateways: How many others there are: until they are heard of, each may be asked as much as this one.
        """
        self.target = target
        self.entered = self.ended = self.waiters = 0
        self.line = None
        self.lined = False
        self.refused = Counter()
        # Of batches, the jobs that are more than one for their call.
        self._extra = 0
        self._jobs_refused = self._in_flight_refused = self._waiters_refused = 0
        self._told = 0
        self._seen = 0
        self._asked_at = now
        self._begun = self._made = now
        self._lease_until = now
        self._need = 0.0
        self._load: QueueLoad | None = None
        self._spending: tuple[Spending, float] | None = None
        self._others = NOBODY_NEEDS
        self.full_at = now
        self.interval = 0.0
        self._burst = 0.0
        self.most = ANY
        self.set(bound, now, other_gateways)
        self.full_at = now

    def set(self, bound: Bound, now: float, other_gateways: int = 0) -> None:
        """Goes by another bound from now on; what is in flight stays counted."""
        self.bound = bound
        self._share(now, max(self._others.gateways, other_gateways))
        self._spending = None
        self._fill()

    @property
    def in_flight(self) -> int:
        """Calls that are being served."""
        return self.entered - self.ended

    def refuses(self, now: float, jobs: int, *, waits: bool) -> Measure | None:
        """What lets no more in, whoever waits in line; None: it may come.

        Args:
            now: The time.
            jobs: How many there are in the call.
            waits: Whether the call waits for its job.
        """
        self.lapse(now)
        interval = self.interval
        # A batch that is larger than what a second lets in comes when a second's worth is there, and is worked off.
        if interval and self.full_at - now > max(self._burst - jobs * interval, 0.0) + _SLACK:
            return Measure.RATE
        if interval == float("inf"):
            return Measure.RATE
        if self.in_flight >= self.places:
            return Measure.IN_FLIGHT
        if waits and self.waiters >= self.waiting_places:
            return Measure.WAITERS
        if self.entered + jobs > self.most:
            return self._overfull(now)
        return None

    def take(self, now: float, jobs: int, *, waits: bool) -> None:
        """Lets a call in that was not refused; `give` must follow."""
        self.entered += 1
        if jobs > 1:
            self._extra += jobs - 1
            self.most -= jobs - 1
        if self.interval:
            self.full_at = max(self.full_at, now) + jobs * self.interval
        if waits:
            self.waiters += 1

    def give(self, *, waits: bool) -> None:
        """A call that was let in has ended."""
        self.ended += 1
        if waits:
            self.waiters -= 1

    def put_back(self, jobs: int, *, waits: bool) -> None:
        """A call that was let in here is not by another bound: it counts as if it had not come."""
        self.give(waits=waits)
        if self.interval:
            self.full_at -= jobs * self.interval

    def turned_away(self, measure: Measure, jobs: int) -> None:
        """A call was refused."""
        self.refused[measure] += 1
        self._jobs_refused += jobs
        if measure is Measure.IN_FLIGHT:
            self._in_flight_refused += 1
        elif measure is Measure.WAITERS:
            self._waiters_refused += 1

    def limit(self, measure: Measure) -> float | timedelta | None:
        """What was set, of all gateways together."""
        limit: float | timedelta | None = getattr(self.bound, measure.value)
        return limit

    def until(self, now: float, jobs: int) -> float:
        """Seconds until the rate lets so many jobs in; infinite where it lets in none."""
        if self.interval == float("inf"):
            return self.interval
        return max(self.full_at - now - max(self._burst - jobs * self.interval, 0.0), 0.0) if self.interval else 0.0

    def wait(self, measure: Measure, jobs: int) -> float:
        """Seconds until it is worth calling again: until as many as are asking have had their turn."""
        if measure is Measure.RATE:
            seconds = max(self._need, self._asked, jobs) * self.interval
        elif measure is Measure.IN_FLIGHT:
            seconds = 0.5 * (self.in_flight + self._in_flight_refused) / max(self.places, 1)
        elif measure is Measure.WAITERS:
            seconds = 0.5 * (self.waiters + self._waiters_refused) / max(self.waiting_places, 1)
        else:
            seconds = 1.5
        return min(max(seconds, SHORTEST), LONGEST)

    @property
    def busy(self) -> float:
        """How much it is asked, to compare."""
        return max(self._need, self._asked) + self.in_flight

    def idle(self, now: float) -> bool:
        """Whether nobody needs it any more; to be asked about once a second."""
        asked = self.entered + sum(self.refused.values())
        if asked != self._seen:
            self._seen = asked
            self._asked_at = now
        return self.in_flight == 0 and not self.lined and now - self._asked_at > IDLE

    @property
    def leased(self) -> bool:
        """Whether it is shared with other gateways at all."""
        bound = self.bound
        return bound.rate is not None or bound.in_flight is not None or bound.waiters is not None

    @property
    def looks(self) -> bool:
        """Whether its queue must be looked at."""
        bound = self.bound
        return bound.oldest_age is not None or (bound.backlog is not None and not self.target.tenant) or self.budgeted

    @property
    def budgeted(self) -> bool:
        """Whether it is to be asked what its tenant has spent."""
        return self.bound.budget is not None

    @property
    def unseen(self) -> bool:
        """Whether it has a budget of which nobody has told yet what is left."""
        return self.bound.budget is not None and self._spending is None

    @property
    def spending(self) -> Spending | None:
        """What its tenant had spent when it was looked at last."""
        return None if self._spending is None else self._spending[0]

    def period_left(self, now: float) -> float:
        """Seconds until the next period of its budget begins."""
        if self._spending is None:
            return 0.0
        spending, at = self._spending
        return max(spending.time_left.total_seconds() - (now - at), 0.0)

    def need(self, now: float) -> Need:
        """What the shard is told, of the time since it was told last."""
        elapsed = max(now - self._begun, 0.001)
        # Of a meter that is new, what it was asked is all that is known.
        # With those in line: callers who wait for their answers ask for no more than they are given, however little that is.
        calls, jobs = (0, 0) if self.line is None else (len(self.line), self.line.jobs)
        measured = self._asked / elapsed + jobs
        self._need = measured if not self._need else self._need + _SMOOTHING * (measured - self._need)
        self._told = self.entered + self._extra
        self._begun = now
        need = Need(
            "/".join((self.target.tenant, self.target.queue, self.target.method)),
            self._need,
            self.in_flight,
            self.in_flight + self._in_flight_refused + calls,
            self.waiters,
            self.waiters + self._waiters_refused + calls,
        )
        self._jobs_refused = self._in_flight_refused = self._waiters_refused = 0
        return need

    def lease(self, need: Need, others: OthersNeed, now: float, other_gateways: int = 0) -> None:
        """The shard has heard of the need, and told of the others'.

        Args:
            need: Which was told.
            others: What others have told of the same.
            now: The time.
            other_gateways: How many others there are at all.
        """
        self._others = others
        self._share(now, others.gateways if now - self._made > NEW else max(others.gateways, other_gateways), need)

    def loaded(self, load: QueueLoad | None) -> None:
        """Its queue was looked at; None: it could not be, or is not known, and keeps nobody out."""
        self._load = load
        self._fill()

    def told(self, spending: Spending, now: float) -> None:
        """It was looked at what its tenant has spent of its budget."""
        self._spending = spending, now
        self._fill()

    def _fill(self) -> None:
        load, bound = self._load, self.bound
        self.most = ANY
        if self.unseen or (self._spending is not None and self._overspent(self._spending[1])):
            # Whoever comes next has it looked at, or is refused.
            self.most = 0
            return
        if load is None:
            return
        if bound.oldest_age is not None and load.oldest is not None and load.oldest > bound.oldest_age:
            self.most = 0
        elif bound.backlog is not None and not self.target.tenant:
            self.most = self.entered + max(bound.backlog - load.backlog, 0)

    def lapse(self, now: float) -> None:
        """Keeps half of a share that could not be renewed in time, for the others have the rest by now."""
        if now <= self._lease_until:
            return
        self._lease_until = float("inf")
        self._go_at(now, self.interval / LAPSED)
        if self.places < ANY:
            self.places = -(-self.places // 2)
        if self.waiting_places < ANY:
            self.waiting_places = -(-self.waiting_places // 2)

    @property
    def _asked(self) -> int:
        """Jobs, since the shard was told last."""
        return self.entered + self._extra - self._told + self._jobs_refused

    def _share(self, now: float, gateways: int, need: Need | None = None) -> None:
        bound, others = self.bound, self._others
        unheard = gateways > others.gateways
        interval = 0.0
        if bound.rate is not None:
            rate = bound.rate / (gateways + 1) if unheard else rate_share(bound.rate, self._need, others.rate, gateways)
            interval = 1 / rate if rate > 0 else float("inf")
        self._go_at(now, interval)
        wanted = (self.in_flight, self.waiters) if need is None else (need.in_flight_wanted, need.waiters_wanted)
        self.places = self.waiting_places = ANY
        if bound.in_flight is not None:
            self.places = (
                -(-bound.in_flight // (gateways + 1))
                if unheard
                else places(bound.in_flight, wanted[0], others.in_flight, others.in_flight_wanted, gateways)
            )
        if bound.waiters is not None:
            self.waiting_places = (
                -(-bound.waiters // (gateways + 1))
                if unheard
                else places(bound.waiters, wanted[1], others.waiters, others.waiters_wanted, gateways)
            )
        self._lease_until = now + LEASE

    def _go_at(self, now: float, interval: float) -> None:
        """Lets a job in each interval: a second's worth at once after a pause, and one at the least. What has gathered is kept."""
        # Where there was no rate, or none of it was this gateway's, one may come.
        gathered = 1.0
        if 0 < self.interval < float("inf"):
            gathered = (self._burst - max(self.full_at - now, 0.0)) / self.interval
        self.interval = interval
        if interval == float("inf"):
            self._burst = 0.0
            self.room = float("-inf")
            self.full_at = now
            return
        self._burst = max(1.0, interval) if interval else 0.0
        self.room = self._burst - interval + _SLACK
        self.full_at = now + self._burst - min(gathered * interval, self._burst)

    def _overspent(self, now: float) -> bool:
        """Whether the budget is spent; what nobody has told yet, and a period that is over, keep nobody out."""
        budget, spending = self.bound.budget, self.spending
        return (
            budget is not None
            and spending is not None
            and spending.spent >= budget.amount
            and self.period_left(now) > 0
        )

    def _overfull(self, now: float) -> Measure | None:
        bound, load = self.bound, self._load
        if self.budgeted:
            # It is a tenant's, and no queue of it is looked at.
            return Measure.BUDGET if self._overspent(now) else None
        if (
            bound.oldest_age is not None
            and load is not None
            and load.oldest is not None
            and load.oldest > bound.oldest_age
        ):
            return Measure.OLDEST_AGE
        return Measure.BACKLOG
