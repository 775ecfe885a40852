"""Whether this process runs one job and nothing else: the gate that claimers of every shard pass before they claim.

Suspects (jobs whose worker died) run alone, so that what kills its worker is known. `rowcall_worker.claiming.suspects` shuts the
gate for a shard, waits until nothing runs in the process, runs them, and opens it. While one shard has it shut, the
others wait for their turn. Ordinary work then has as long as it was kept waiting before the gate is shut again
while jobs run: neither starves the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from rowcall_worker.running.slots import Slots

_LONGEST_REST: Final = 60.0
"""Seconds of ordinary work after the gate was shut, at most; at least as long as it was shut."""


class Solitude:
    """The gate of one process."""

    def __init__(self, slots: Sequence[Slots]) -> None:
        """`slots`: all that the process has; none taken means that nothing runs and nothing is being claimed."""
        self._slots = slots
        self._turn = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._rested_at = 0.0

    @property
    def wanted(self) -> bool:
        """Whether the gate is shut: nothing may be claimed but what is to run alone."""
        return not self._open.is_set()

    @property
    def idle(self) -> bool:
        """Whether no attempt runs that is not over, and nothing is being claimed."""
        return not any(slots.running for slots in self._slots)

    @property
    def rested(self) -> bool:
        """Whether ordinary work has had its time since the gate was shut."""
        return time.monotonic() >= self._rested_at

    @property
    def stuck(self) -> bool:
        """Whether handlers go on although their attempts are over: nobody can say for how long."""
        return any(slots.stuck for slots in self._slots)

    async def opened(self) -> None:
        """Waits until the gate is open."""
        await self._open.wait()

    @contextlib.asynccontextmanager
    async def shut(self, *, busy: bool) -> AsyncIterator[bool]:
        """Shuts the gate for as long as the block lasts; one block at a time.

        Args:
            busy: Shut it although jobs run, if ordinary work has had its time.

        Yields:
            Whether it is shut; if not, the process is not idle, or ordinary work has not had its time yet.
        """
        async with self._turn:
            if not self.idle and not (busy and self.rested):
                yield False
                return
            self._open.clear()
            began = time.monotonic()
            try:
                yield True
            finally:
                ended = time.monotonic()
                self._rested_at = max(self._rested_at, ended + min(ended - began, _LONGEST_REST))
                self._open.set()

    async def quiet(self, seconds: float) -> bool:
        """Waits so long, at most, until the process is idle; whether it is. With the gate shut it stays so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.idle:
                    for slots in self._slots:
                        await slots.quiet()
        return self.idle
