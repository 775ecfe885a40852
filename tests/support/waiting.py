"""Waiting, within a bound, for something to become true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(true: Callable[[], Awaitable[bool] | bool], *, seconds: float = 20, every: float = 0.01) -> None:
    """Waits until something is true. Raises TimeoutError.

    Args:
        true: Says whether it is.
        seconds: For how long to wait at most.
        every: Seconds between looks; more where a look costs something.
    """
    async with asyncio.timeout(seconds):
        while True:
            answer = true()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(every)  # a database or a process makes it true: there is nothing to be woken by
