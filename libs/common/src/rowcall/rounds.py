"""What comes round in an event loop, again and again, until it is cancelled. Used wherever something is looked at every so often.

A task that raises is gone, and nobody hears of it: a gateway would go by the revocations and bounds of that hour for as long as it
lives. So what is raised is told, and it goes on. What is expected to fail, a database that is away, is the business of whoever looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

_log = structlog.get_logger(__name__)


async def come_round(what: str, look: Callable[[], Awaitable[None]], every: float, *, after: float = 0.0) -> NoReturn:
    """Looks again and again.

    Args:
        what: What it does, for the log: "reading bounds".
        look: Does it once.
        every: Seconds from the end of one look to the next, whether or not it raised.
        after: Seconds before the first one.
    """
    failing = False
    if after:
        await asyncio.sleep(after)
    while True:
        try:
            await look()
            failing = False
        except Exception as error:  # noqa: BLE001  a fault of ours must not end it for good
            if not failing:
                _log.error("what comes round failed, trying again", task=what, exc_info=error)
            failing = True
        await asyncio.sleep(every)
