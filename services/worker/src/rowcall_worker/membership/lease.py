"""One lease on one shard, renewed from a thread and a connection of its own.

Not from the event loop: a handler that blocks the loop must not cost the lease of everything else that runs. (One that
holds the interpreter lock for longer than the lease does: the worker is then fenced off, and notices.)

Used by `rowcall_worker.membership.registration`. Each renewal tells how late the event loop is and what runs, and brings back what the worker
must know: which of its jobs are to be cancelled, which queues are paused. What is far past its time although nobody ended it (the
event loop hangs) is named to the shard from here, for another worker to run. The lease is over when the shard says so, or when it could not be renewed in time:
counted from before a renewal was sent, so that this side gives up before the shard does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from rowcall.queue.model import Busy, Renewed, Rescued, Running
from rowcall.queue.protocol import LeaseRenewal

_MAX_INTERVAL: Final = timedelta(seconds=1)
_RETRY_INTERVAL: Final = timedelta(milliseconds=250)
_EXPIRE_AGAIN: Final = 5.0
"""Seconds until attempts are named again that the shard did not end: they are not overdue by its clock, or no longer run."""
_SPACING: Final = 0.02
"""Seconds between renewals at least, however often one is asked for."""

_log = structlog.get_logger(__name__)


def beat(length: timedelta) -> timedelta:
    """How often a lease of this length is renewed."""
    return min(length / 3, _MAX_INTERVAL)


class Lease:
    """The lease of one identity."""

    def __init__(
        self,
        worker_id: UUID,
        length: timedelta,
        renewal: LeaseRenewal,
        lost: Callable[[str], None],
        heard: Callable[[Renewed, float], None],
        *,
        overdue: Callable[[float], Sequence[Running]],
        expired: Callable[[Sequence[Rescued]], None],
        loop_lag: Callable[[], timedelta],
        busy: Callable[[float], Busy],
        asked_at: float,
        shard: str,
    ) -> None:
        """Args:
        worker_id: Registered already.
        length: How long it holds without being renewed.
        renewal: Renews it; used and closed in the lease's own thread.
        lost: Called once, in that thread, with the reason, when the lease is over.
        heard: Called in that thread with each renewal's answer while the lease holds, and when it was sent (monotonic).
        overdue: What runs under the identity and is past its time at this moment (monotonic), grace included; called in
            that thread.
        expired: Called in a thread with what the shard has ended of that.
        loop_lag: How late the event loop was since it was last asked; called in that thread.
        busy: What runs under the identity at this moment (monotonic); called in that thread.
        asked_at: time.monotonic() of before the registration was sent.
        shard: The shard's name, for the log.
        """
        self._worker_id = worker_id
        self._length = length.total_seconds()
        self._renewal = renewal
        self._lost = lost
        self._heard = heard
        self._overdue = overdue
        self._expired = expired
        self._expiring: threading.Thread | None = None
        self._expire_again = 0.0
        self._named: set[Running] = set()
        """What the shard has ended so far."""
        self._loop_lag = loop_lag
        self._busy = busy
        self._shard = shard
        self._until = asked_at + self._length
        self._interval = beat(length).total_seconds()
        self._stopping = False
        self._wake = threading.Event()
        # A daemon: a connection that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"rowcall-lease-{shard}", daemon=True)

    @property
    def held(self) -> bool:
        """Whether the lease holds, by this side's clock."""
        return time.monotonic() < self._until

    def start(self) -> None:
        """Begins to renew."""
        self._thread.start()

    def renew_now(self) -> None:
        """Renews at once: there is news to be heard."""
        self._wake.set()

    def stop(self) -> None:
        """Ends renewing; does not wait for a renewal in flight."""
        self._stopping = True
        self._wake.set()

    def _run(self) -> None:
        # The first renewal is at once: from then on a session stands for the worker.
        pause = 0.0
        failing = False
        sent_at = -_SPACING
        while True:
            self._wake.wait(pause)
            time.sleep(max(sent_at + _SPACING - time.monotonic(), 0.0))
            self._wake.clear()
            if self._stopping:
                break
            sent_at = time.monotonic()
            try:
                renewed = self._renewal.renew(self._loop_lag(), self._busy(sent_at))
            except Exception as error:  # noqa: BLE001  whatever it was: the lease counts down, and the next try decides
                if not failing:
                    self._warn(error)
                failing = True
                pause = min(self._interval, _RETRY_INTERVAL.total_seconds())
                if not self.held:
                    self._end("could not be renewed in time")
                    break
            else:
                if not renewed.alive:
                    self._end("was declared dead")
                    break
                self._until = sent_at + self._length
                failing = False
                pause = self._interval
                self._heard(renewed, sent_at)
                self._expire()
        self._renewal.close()

    def _expire(self) -> None:
        """Names what is overdue, in a thread of its own: it may take long."""
        now = time.monotonic()
        if self._expiring is not None and self._expiring.is_alive():
            return
        overdue = self._overdue(now)
        self._named.intersection_update(overdue)
        wanted = [each for each in overdue if each not in self._named]
        if wanted and now >= self._expire_again:
            self._expire_again = now + _EXPIRE_AGAIN
            self._expiring = threading.Thread(
                target=self._end_overdue, args=(wanted,), name=f"rowcall-overdue-{self._shard}", daemon=True
            )
            self._expiring.start()

    def _end_overdue(self, overdue: Sequence[Running]) -> None:
        try:
            ended = self._renewal.expire(overdue)
        except Exception as error:  # noqa: BLE001  whatever it was: they are named again
            _log.warning("overdue attempts not ended, trying again", shard=self._shard, exc_info=error)
            return
        gone = {each.job_id for each in ended}
        self._named.update(each for each in overdue if each.job_id in gone)
        if ended:
            self._expired(ended)

    def _warn(self, error: Exception) -> None:
        _log.warning(
            "lease not renewed, trying again",
            shard=self._shard,
            worker_id=str(self._worker_id),
            seconds=round(max(self._until - time.monotonic(), 0.0), 3),
            exc_info=error,
        )

    def _end(self, why: str) -> None:
        self._until = 0.0
        if not self._stopping:
            self._lost(why)
