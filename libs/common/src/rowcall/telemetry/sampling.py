"""Which traces are recorded: decided by the trace's id, so that all who decide decide alike, and for callers who ask, so many a second.

What has failed or was retried is recorded whatever is said here; that is whoever's who records it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from rowcall.telemetry import metrics

DEFAULT_RATIO: Final = 0.05
"""Of all traces, where nothing else is said."""

_RANGE: Final = 1 << 64
_ALL: Final = "g"
"""Above every hexadecimal digit."""


class Sampling:
    """Decides. May be asked from any thread; takes some tenths of a microsecond."""

    def __init__(
        self,
        ratio: float = DEFAULT_RATIO,
        *,
        asked: float | None = None,
        by_parent: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            ratio: The part of all traces that is sampled, from 0 to 1.
            asked: How many a second are sampled beside them because their callers ask for it, by the flag in traceparent, and as many at
                once; None: whoever asks makes no difference.
            by_parent: Of a trace that has begun elsewhere, whether only that counts that its caller asks for.
            now: The time in seconds, from whenever.
        """
        # The lower half of the id, as the SDK's sampler by ratio goes by: others who sample so sample the same traces.
        bound = round(ratio * _RANGE)
        self._bound = _ALL if bound >= _RANGE else f"{bound:016x}"
        self._by_parent = by_parent
        self._asked = asked
        self._now = now
        self._left = asked or 0.0
        self._looked_at = now()
        self._lock = threading.Lock()

    def samples(self, trace_id: str, *, asked: bool, root: bool = False) -> bool:
        """Whether a trace is recorded.

        Args:
            trace_id: 32 hex digits, lower case.
            asked: Whether its caller records it.
            root: Whether it has begun here.
        """
        if (root or not self._by_parent) and trace_id[16:] < self._bound:
            return True
        return asked and self._asked is not None and self._takes(self._asked)

    def _takes(self, rate: float) -> bool:
        """Whether there is room for one more whose caller asks."""
        with self._lock:
            now = self._now()
            self._left = min(rate, self._left + (now - self._looked_at) * rate)
            self._looked_at = now
            if self._left >= 1:
                self._left -= 1
                return True
            metrics.TRACES_LIMITED.add(1)
            return False
