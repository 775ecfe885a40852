"""How many calls were refused for who makes them or what they may, by reason and method: counted, and told to the log each minute.

An entry of the audit for each would put whoever is refused in line behind each other, and let strangers fill a table. Made and started by the
server; the interceptor counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Final

import grpc
import structlog

TELL_EVERY: Final = 60.0
"""Seconds between two lines about one reason and method."""

KINDS: Final = 1000
"""Pairs of reason and method that are counted apart between two tellings; the rest are told by reason alone."""

_COUNTED: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})

_log = structlog.get_logger(__name__)


class RefusedCalls:
    """Of one gateway. Every method is called in its event loop."""

    def __init__(self, *, tell_every: float = TELL_EVERY) -> None:
        """
        Args:
            tell_every: Seconds.
        """
        self._tell_every = tell_every
        self._counts: Counter[tuple[str, str]] = Counter()
        self._task: asyncio.Task[None] | None = None

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """Since they were told last: by ErrorInfo.reason and method, empty where there were too many."""
        return dict(self._counts)

    def start(self) -> None:
        """Begins to tell."""
        self._task = asyncio.create_task(self._run(), name="refused calls")

    async def close(self) -> None:
        """Tells what is left, and stops."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self.tell()

    def count(self, code: grpc.StatusCode, reason: str, method: str) -> None:
        """Counts a call that was refused, if it was for who makes it or what they may.

        Args:
            code: That it ends with.
            reason: ErrorInfo.reason.
            method: "package.Service/Method".
        """
        if code not in _COUNTED:
            return
        kind = (reason, method)
        if kind not in self._counts and len(self._counts) >= KINDS:
            kind = (reason, "")
        self._counts[kind] += 1

    def tell(self) -> None:
        """Tells what was counted since the last time."""
        counts, self._counts = self._counts, Counter()
        for (reason, method), calls in sorted(counts.items()):
            _log.warning("calls were refused", reason=reason, method=method or "(more)", count=calls)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._tell_every)
            self.tell()
