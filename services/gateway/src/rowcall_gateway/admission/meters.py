"""How much of one bound this gateway lets in, and how much it is asked for. Kept by `admission`, leased by `leases`.

All times are monotonic seconds. What is asked of a meter at each call is a few comparisons; everything that is shared with other
gateways comes once a second.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from enum import StrEnum
from typing import Final

from rowcall.bounds import Bound, Target
from rowcall.queue.model import NOBODY_NEEDS, Need, OthersNeed, QueueLoad
from rowcall_gateway.admission.shares import LAPSED, places, rate_share

LEASE: Final = 2.5
"""Seconds for which a share is good: two that could not be renewed, and a half for the answer of a third."""

IDLE: Final = 10.0
"""Seconds after which a meter that nobody asks is forgotten."""

SHORTEST: Final = 0.3
LONGEST: Final = 2.4
"""Seconds after which a refused caller is told to call again, before they are spread by a quarter: under 3 s for everybody."""

_SMOOTHING: Final = 0.5
"""Of what is needed, how much the last second counts."""


class Measure(StrEnum):
    """What of a bound lets no more in."""

    RATE = "rate"
    IN_FLIGHT = "in_flight"
    WAITERS = "waiters"
    BACKLOG = "backlog"
    OLDEST_AGE = "oldest_age"


class Meter:
    """One bound on one tenant, queue, method or pair, on one shard, as this gateway goes by it."""

    __slots__ = (
        "_asked",
        "_asked_at",
        "_at",
        "_begun",
        "_burst",
        "_in_flight_refused",
        "_lease_until",
        "_load",
        "_need",
        "_others",
        "_places",
        "_rate",
        "_tokens",
        "_waiters_refused",
        "_waiting_places",
        "bound",
        "in_flight",
        "let_in",
        "refused",
        "target",
        "waiters",
    )

    bound: Bound
    """What it is of, as it was set."""
    target: Target
    """The same with the tenant's name, where the bound is of each tenant."""
    in_flight: int
    """Calls that are being served."""
    waiters: int
    """Calls that wait for their jobs."""
    let_in: int
    """Jobs since its queue was looked at last."""
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
        self.in_flight = 0
        self.waiters = 0
        self.let_in = 0
        self.refused = Counter()
        self._asked = 0.0
        self._asked_at = now
        self._begun = now
        self._need = 0.0
        self._in_flight_refused = 0
        self._waiters_refused = 0
        self._load: QueueLoad | None = None
        self._others = NOBODY_NEEDS
        self._at = now
        self._tokens = self._rate = 0.0
        self._burst = 1.0
        self._places: int | None = None
        self._waiting_places: int | None = None
        self.set(bound, now, other_gateways)
        self._tokens = self._burst

    def set(self, bound: Bound, now: float, other_gateways: int = 0) -> None:
        """Goes by another bound from now on; what is in flight stays counted."""
        self.bound = bound
        self._share(now, max(self._others.gateways, other_gateways))

    def refuses(self, now: float, jobs: int, *, waits: bool) -> Measure | None:
        """What lets no more in; None: it may come.

        Args:
            now: The time.
            jobs: How many there are in the call.
            waits: Whether the call waits for its job.
        """
        if now > self._lease_until:
            self._lapse()
        bound = self.bound
        self._asked += jobs
        self._asked_at = now
        if bound.rate is not None:
            burst = self._burst
            tokens = self._tokens + (now - self._at) * self._rate
            self._tokens = tokens = min(tokens, burst)
            self._at = now
            # A batch that is larger than what a second lets in comes when a second's worth is there, and is worked off.
            if (tokens < jobs and tokens < burst) or bound.rate == 0:
                return Measure.RATE
        if self._places is not None and self.in_flight >= self._places:
            self._in_flight_refused += 1
            return Measure.IN_FLIGHT
        if waits and self._waiting_places is not None and self.waiters >= self._waiting_places:
            self._waiters_refused += 1
            return Measure.WAITERS
        return self._overfull(jobs) if self._load is not None else None

    def take(self, jobs: int, *, waits: bool) -> None:
        """Lets a call in that was not refused; `give` must follow."""
        self._tokens -= jobs
        self.let_in += jobs
        self.in_flight += 1
        if waits:
            self.waiters += 1

    def give(self, *, waits: bool) -> None:
        """A call that was let in has ended."""
        self.in_flight -= 1
        if waits:
            self.waiters -= 1

    def limit(self, measure: Measure) -> float | timedelta | None:
        """What was set, of all gateways together."""
        limit: float | timedelta | None = getattr(self.bound, measure.value)
        return limit

    def wait(self, measure: Measure, jobs: int) -> float:
        """Seconds until it is worth calling again: until as many as are asking have had their turn."""
        if measure is Measure.RATE:
            asked = max(self._need, self._asked, jobs)
            seconds = asked / self._rate if self._rate else LONGEST
        elif measure is Measure.IN_FLIGHT:
            seconds = 0.5 * (self.in_flight + self._in_flight_refused) / max(self._places or 0, 1)
        elif measure is Measure.WAITERS:
            seconds = 0.5 * (self.waiters + self._waiters_refused) / max(self._waiting_places or 0, 1)
        else:
            seconds = 1.5
        return min(max(seconds, SHORTEST), LONGEST)

    @property
    def busy(self) -> float:
        """How much it is asked, to compare."""
        return max(self._need, self._asked) + self.in_flight

    def idle(self, now: float) -> bool:
        """Whether nobody needs it any more."""
        return self.in_flight == 0 and now - self._asked_at > IDLE

    @property
    def leased(self) -> bool:
        """Whether it is shared with other gateways at all."""
        bound = self.bound
        return bound.rate is not None or bound.in_flight is not None or bound.waiters is not None

    @property
    def looks(self) -> bool:
        """Whether its queue must be looked at."""
        return self.bound.oldest_age is not None or (self.bound.backlog is not None and not self.target.tenant)

    def need(self, now: float) -> Need:
        """What the shard is told, of the time since it was told last."""
        elapsed = max(now - self._begun, 0.001)
        # Of a meter that is new, what it was asked is all that is known.
        measured = self._asked / elapsed
        self._need = measured if not self._need else self._need + _SMOOTHING * (measured - self._need)
        self._asked = 0.0
        self._begun = now
        need = Need(
            "/".join((self.target.tenant, self.target.queue, self.target.method)),
            self._need,
            self.in_flight,
            self.in_flight + self._in_flight_refused,
            self.waiters,
            self.waiters + self._waiters_refused,
        )
        self._in_flight_refused = self._waiters_refused = 0
        return need

    def lease(self, need: Need, others: OthersNeed, now: float) -> None:
        """The shard has heard of the need, and told of the others'."""
        self._others = others
        self._share(now, others.gateways, need)

    def loaded(self, load: QueueLoad | None) -> None:
        """Its queue was looked at; None: it could not be, or is not known, and keeps nobody out."""
        self._load = load
        self.let_in = 0

    def _share(self, now: float, gateways: int, need: Need | None = None) -> None:
        bound, others = self.bound, self._others
        unheard = gateways > others.gateways
        self._tokens = min(self._tokens + (now - self._at) * self._rate, self._burst)
        self._at = now
        rate = 0.0
        if bound.rate is not None:
            rate = bound.rate / (gateways + 1) if unheard else rate_share(bound.rate, self._need, others.rate, gateways)
        self._go_at(rate)
        wanted = (self.in_flight, self.waiters) if need is None else (need.in_flight_wanted, need.waiters_wanted)
        self._places = self._waiting_places = None
        if bound.in_flight is not None:
            self._places = (
                -(-bound.in_flight // (gateways + 1))
                if unheard
                else places(bound.in_flight, wanted[0], others.in_flight, others.in_flight_wanted, gateways)
            )
        if bound.waiters is not None:
            self._waiting_places = (
                -(-bound.waiters // (gateways + 1))
                if unheard
                else places(bound.waiters, wanted[1], others.waiters, others.waiters_wanted, gateways)
            )
        self._lease_until = now + LEASE

    def _lapse(self) -> None:
        """Keeps half of the share, for the others have the rest by now."""
        self._lease_until = float("inf")
        self._go_at(self._rate * LAPSED)
        if self._places is not None:
            self._places = -(-self._places // 2)
        if self._waiting_places is not None:
            self._waiting_places = -(-self._waiting_places // 2)

    def _go_at(self, rate: float) -> None:
        """Lets so many in a second: a second's worth at once after a pause, and one at the least."""
        self._rate = rate
        self._burst = max(rate, 1.0)

    def _overfull(self, jobs: int) -> Measure | None:
        bound, load = self.bound, self._load
        if load is None:
            return None
        if bound.oldest_age is not None and load.oldest is not None and load.oldest > bound.oldest_age:
            return Measure.OLDEST_AGE
        if bound.backlog is not None and not self.target.tenant and load.backlog + self.let_in + jobs > bound.backlog:
            return Measure.BACKLOG
        return None
