"""A call by all the bounds on it: whether it may come at once, and that it has ended. Made by `admission`, one for each tenant and method."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rowcall_gateway.admission.meters import Meter


class Pass:
    """What a call is held against; for a `with` block once it was let in. One object for all calls that are alike: it keeps nothing of any."""

    __slots__ = ("_looked", "_meters", "_rated", "_waiting")

    def __init__(self, meters: Sequence[Meter], *, waits: bool) -> None:
        self._meters = tuple(meters)
        self._rated = tuple(meter for meter in meters if meter.bound.rate is not None)
        self._looked = tuple(meter for meter in meters if meter.looks)
        self._waiting = self._meters if waits else ()

    @property
    def meters(self) -> Sequence[Meter]:
        """Of each bound, its own."""
        return self._meters

    def enter(self, now: float) -> bool:
        """Lets a call with one job in, by all of them or by none. This is `Meter.refuses` and `Meter.take`, at a fifth of what they cost.

        Args:
            now: Monotonic seconds.
        """
        for meter in self._meters:
            if meter.lined or meter.entered - meter.ended >= meter.places:
                return False
        for meter in self._rated:
            if meter.full_at - now > meter.room:
                return False
        for meter in self._looked:
            if meter.entered >= meter.most:
                return False
        for meter in self._waiting:
            if meter.waiters >= meter.waiting_places:
                return False
        for meter in self._waiting:
            meter.waiters += 1
        for meter in self._meters:
            meter.entered += 1
        for meter in self._rated:
            full_at = meter.full_at
            meter.full_at = (full_at if full_at > now else now) + meter.interval  # noqa: FURB136  max is a call
        return True

    def __enter__(self) -> None:
        """It is counted already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for meter in self._waiting:
            meter.waiters -= 1
        for meter in self._meters:
            meter.ended += 1
            if meter.lined and meter.line is not None:
                meter.line.serve(time.monotonic())
