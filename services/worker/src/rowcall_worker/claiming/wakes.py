"""What asks this process for a look: answered at once, and no more often than looks are cheap. Made by `rowcall_worker.shard`.

Gateways hold their hints back themselves. Who submits in SQL asks once a transaction (`rowcall.wake_v1`), and there may be
thousands of those in a second, or somebody who asks for no reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

LOOK_EVERY: Final = 0.002
"""Seconds between two looks that were asked for, for each queue that is looked at: a claim that finds nothing costs Postgres
some tenth of a millisecond. As often as a gateway sends hints."""
PROMOTE_AFTER: Final = 0.01
"""Seconds until due jobs are looked for too: behind the claim of those that are ready already."""
PROMOTE_EVERY: Final = 0.05
"""Seconds between two looks for due jobs that were asked for."""


class Debounced:
    """Calls a function soon, and at most once an interval, however often that is asked for. One event loop's."""

    def __init__(self, call: Callable[[], None], *, every: Callable[[], float], after: float = 0.0) -> None:
        """Args:
        call: It must not block.
        every: The interval in seconds, asked for at each call.
        after: Seconds until the first call; 0 is at once, before `ask` returns.
        """
        self._call = call
        self._every = every
        self._after = after
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self) -> None:
        """Calls, now or as soon as the interval is over; whoever asks until then is answered by that one call."""
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        at = max(now + self._after, self._not_before)
        if at > now:
            self._timer = loop.call_at(at, self._run, loop)
        else:
            self._run(loop)

    def close(self) -> None:
        """Nothing that was asked for is called any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._not_before = loop.time() + self._every()
        self._call()


class Wakes:
    """Answers what asks for looks, on one shard."""

    def __init__(self, look: Callable[[], None], promote: Callable[[], None], *, queues: Callable[[], int]) -> None:
        """Args:
        look: Has every queue looked at.
        promote: Has due jobs looked for.
        queues: How many queues a look is at.
        """
        self._look = Debounced(look, every=lambda: LOOK_EVERY * max(queues(), 1))
        self._promote = Debounced(promote, every=lambda: PROMOTE_EVERY, after=PROMOTE_AFTER)

    def heard(self) -> None:
        """Somebody asks for a look."""
        self._look.ask()
        self._promote.ask()

    def close(self) -> None:
        """Looks no more."""
        self._look.close()
        self._promote.close()
