"""How long a call may wait, so that its answer still reaches the caller. Used by the calls that wait for jobs.

An error's details reach a client only if they leave before its deadline: one caller needs 5 ms, 400 that end
together up to 100 ms. Too late, and the client sees a bare DEADLINE_EXCEEDED.
"""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Final, NamedTuple, Self

SHORT: Final = 0.2
"""Seconds: below, half of what is left is the margin."""

SHARE: Final = 0.05
"""Of the time that is left."""

LEAST: Final = 0.1
"""Seconds."""

MOST: Final = 0.5
"""Seconds, the jitter included."""

JITTER: Final = 0.25
"""The margin grows by up to this share of itself, so that calls with one deadline do not all end at one time."""


def margin(remaining: float) -> float:
    """How many seconds before its deadline a call is ended.

    Args:
        remaining: Seconds until the deadline, as the call arrives.
    """
    if remaining < SHORT:
        return max(remaining, 0.0) / 2
    base = min(max(remaining * SHARE, LEAST), MOST / (1 + JITTER))
    return min(base * random.uniform(1, 1 + JITTER), remaining / 2)  # noqa: S311  spread, not secrecy


class Budget(NamedTuple):
    """What a call may spend, in seconds of the loop's clock."""

    submit_until: float | None
    """Its row must be durable by then; None: the caller set no deadline."""
    wait_until: float
    """It stops waiting for the result then."""
    margin: float
    """What was kept back for the answer's way."""
    at_deadline: bool
    """Whether it is the caller's deadline that ends the wait, not a preference or a bound of ours."""

    @classmethod
    def of(
        cls,
        now: float,
        remaining: float | None,
        *,
        max_call_wait: timedelta,
        wait: timedelta | None = None,
    ) -> Self:
        """The budget of a call that arrives now.

        Args:
            now: The loop's time.
            remaining: Seconds until the caller's deadline; None if there is none.
            max_call_wait: How long a call may wait at most.
            wait: How long this call would wait; None: as long as it may.
        """
        bound = max_call_wait if wait is None or wait > max_call_wait else wait
        wait_until = now + bound.total_seconds()
        if remaining is None:
            return cls(None, wait_until, MOST, False)  # noqa: FBT003 - as the fields are named above
        kept = margin(remaining)
        end = now + remaining - kept
        return cls(end, min(wait_until, end), kept, end <= wait_until)
