"""Waiting, within a bound, for something to become true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(true: Callable[[], bool], *, seconds: float = 10) -> None:
    """Waits until something is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - it may be a database or a process that makes it true
            await asyncio.sleep(0.01)
