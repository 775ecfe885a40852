"""Refuses calls at once that would be answered too late. Asked by the interceptor, first of all; told by it and by `calls` how far a call has come.

More calls than a gateway can do wait, all of them: in the rounds of its event loop, and for the database. Each is then worked on until its
deadline is over, and none is answered. So a call that submits is refused where it would need more than `SHARE` of the time that it has
left to become a row: as long as the quickest of those that have just become rows, and longer, twice at the most, by as much as there are
more before it. It is the quickest that says it: what waits for a shard that hangs, or for a caller who sends slowly, is no sign of a crowd,
and is before all of them alike. Where few calls are being taken in there is none either, however slow the database is.

How many were refused is counted (`rowcall.admission.late`) and told in the log, each ten seconds at most: a line each would
cost what there is no time for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Final

import structlog

from rowcall.telemetry import metrics

SHARE: Final = 0.25
"""Of the time that a call has left, how much it may need to become a row: it is to be answered then, by the same event loop, and others
that come meanwhile have that do for them what it does for this one."""

PATIENCE: Final = 2.0
"""Seconds that a call without a deadline may need."""

FEW: Final = 64
"""Calls that are being taken in, with which there is no crowd."""

SEEN_FOR: Final = 1.0
"""Seconds of which the quickest is remembered, and for which it says something afterwards where nothing has become a row since."""

MOST: Final = 2.0
"""How many times as long as the quickest a call may be thought to need: what that one waited for once, such as what the shard is asked first of
a method, is not waited for by each that is before it."""

TELL_EVERY: Final = 10.0
"""Seconds between two lines of the log."""

_log = structlog.get_logger(__name__)


class Taken:
    """A call that is being taken in, for a `with` block. Made by `InTime.take`."""

    __slots__ = ("_before", "_in_time", "_since")

    def __init__(self, in_time: InTime, since: float, before: int) -> None:
        self._in_time = in_time
        self._since: float | None = since
        self._before = before

    def written(self) -> None:
        """It is a row."""
        if self._since is not None:
            self._in_time.saw(self._since, self._before)
        self.leave()

    def leave(self) -> None:
        """It is a row, or has ended, or waits for something that is not the gateway's doing."""
        if self._since is not None:
            self._since = None
            self._in_time.inside -= 1

    def __enter__(self) -> None:
        _current.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()


_current: Final[ContextVar[Taken | None]] = ContextVar("rowcall_gateway_taken", default=None)


def written() -> None:
    """The call that is being served is a row."""
    taken = _current.get()
    if taken is not None:
        taken.written()


def left() -> None:
    """The call that is being served waits for something that is not the gateway's doing."""
    taken = _current.get()
    if taken is not None:
        taken.leave()


class InTime:
    """What a gateway knows of how long it takes calls to become rows. Used in its event loop alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: Tells the time, in seconds.
        """
        self.inside = 0
        """How many calls are being taken in."""
        self._clock = clock
        # Seconds that the quickest needed, and how many were inside when it came; of this moment, SEEN_FOR long, and of the one before.
        self._moment = 0
        self._least: tuple[float, int] | None = None
        self._before: tuple[float, int] | None = None
        self._refused = 0
        self._telling: asyncio.Task[None] | None = None

    def take(self) -> Taken:
        """Counts a call that is being taken in."""
        self.inside += 1
        return Taken(self, self._clock(), self.inside)

    def refuses(self, remaining: float | None) -> bool:
        """Whether a call would be answered too late; counts it then.

        Args:
            remaining: Seconds that it has left; None: it has no deadline.
        """
        if self.inside < FEW:
            return False
        self._look(self._clock())
        least = self._before if self._least is None else self._least
        if least is None:
            return False
        took, inside = least
        if took * min((self.inside + 1) / inside, MOST) <= (PATIENCE if remaining is None else remaining * SHARE):
            return False
        self._refused += 1
        metrics.ADMISSION_LATE.add(1)
        return True

    def saw(self, since: float, inside: int) -> None:
        """Learns of a call that has just become a row.

        Args:
            since: When it began to be taken in.
            inside: How many were being taken in then.
        """
        now = self._clock()
        self._look(now)
        took = now - since
        if self._least is None or took < self._least[0]:
            # Among few, a call needs as long as it needs: none is before it.
            self._least = took, max(inside, FEW, 1)

    def start(self) -> None:
        """Begins to tell."""
        self._telling = asyncio.create_task(self._tell(), name="telling of late calls")

    async def close(self) -> None:
        """Tells what is left, and stops."""
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling
            self._telling = None
        self.tell()

    def tell(self) -> None:
        """Writes in the log how many were refused since it did so last."""
        refused, self._refused = self._refused, 0
        if refused:
            _log.warning("calls were refused that would have been answered too late", count=refused)

    def _look(self, now: float) -> None:
        moment = int(now / SEEN_FOR)
        if moment != self._moment:
            self._before = self._least if moment == self._moment + 1 else None
            self._least = None
            self._moment = moment

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            self.tell()
