"""Waiting for a database no longer than so many seconds. Called by `sources` and `capacity`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_abandoned: Final[set[asyncio.Task[Any]]] = set()


async def bounded(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """The result of the work, or TimeoutError at the time that was said.

    `asyncio.timeout` does not keep that promise: psycopg answers a cancellation by asking the server to cancel, and
    waits; a server that is frozen answers neither. So the work is cancelled and left to end by itself.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _abandon(task)
        raise
    if not done:
        _abandon(task)
        raise TimeoutError(f"no answer within {seconds:g} s")
    return task.result()


def _abandon(task: asyncio.Task[Any]) -> None:
    _abandoned.add(task)
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it
