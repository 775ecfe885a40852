"""Jobs that wait, and their end: what `drain`, `processes` and `wal` have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tests.bench import load, requests
from tests.bench.stage import System, count
from tests.fix_services import ServiceProcess

BATCH: Final = 100
"""Jobs in a call."""

_ELAPSED: Final = """
select extract(epoch from max(finished_at) - min(started_at)) from rowcall.job_history where state = 11
"""
_PATIENCE: Final = 600.0


async def fill(system: System, address: str, jobs: int, *, method: str = "Echo") -> None:
    """Has a gateway write so many jobs, and Postgres settle down. Raises NotCounted."""
    await asyncio.to_thread(system.fresh)
    found = await load.apart(
        system.asked(requests.batch(address, size=BATCH, in_flight=8, calls=jobs // BATCH, method=method))
    )
    count("filling: calls answered with OK", jobs // BATCH, found.ok)
    count("filling: rows", jobs, await asyncio.to_thread(system.waiting))
    await asyncio.to_thread(system.do, "vacuum analyze rowcall.job", "checkpoint")


async def drained(
    system: System,
    jobs: int,
    workers: int = 1,
    *,
    before_end: Callable[[ServiceProcess], Awaitable[None]] | None = None,
    **variables: str,
) -> float:
    """Starts workers and waits until all is done; seconds from the first start to the last end, in the database's time.

    `before_end` looks at each worker when all is done. Raises NotCounted.
    """
    started = [await asyncio.to_thread(lambda: system.worker(**variables)) for _ in range(workers)]
    await until_done(system)
    count("drain: jobs done", jobs, await asyncio.to_thread(system.finished))
    elapsed = await asyncio.to_thread(system.value, _ELAPSED)
    for worker in started:
        if before_end is not None:
            await before_end(worker)
        await asyncio.to_thread(worker.end)
    return elapsed


async def until_done(system: System, every: float = 0.25) -> None:
    """Returns when no job is live any more, or when patience is at its end: whoever counts then finds too few."""
    until = time.monotonic() + _PATIENCE
    # A look costs the database nothing: the live jobs are few at the end, and their number is the index's.
    while await asyncio.to_thread(system.value, "select count(*) from (select from rowcall.job limit 1) j"):
        if time.monotonic() > until:
            break
        await asyncio.sleep(every)
