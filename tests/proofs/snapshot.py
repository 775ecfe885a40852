"""Full rate for a minute and then a burst: what a held snapshot must not slow. For the proofs and the benchmark `snapshot`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.proofs.engine import Seen, engine

FULL_RATE_SECONDS = 60.0
BURST = 50_000


async def full_rate_and_burst(dsn: str, beside: Callable[[], AbstractContextManager[None]]) -> tuple[float, Seen]:
    """Jobs a second over a minute at full rate and a burst, until all are settled."""
    async with engine(dsn) as load:
        await load.submit(2_000)
        await load.drain()
        load.seen = Seen()
        with beside():
            began = time.monotonic()
            async with load.claiming():
                await load.produce(FULL_RATE_SECONDS)
                await load.submit(BURST)
            elapsed = time.monotonic() - began
        assert load.seen.settled == load.seen.submitted
        return load.seen.settled / elapsed, load.seen
