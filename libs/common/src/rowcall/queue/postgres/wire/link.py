"""A dedicated connection that is made again whenever it breaks. Called by the listener and the notifier of hints."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
import structlog

from rowcall import forks, sessions
from rowcall.queue.postgres.wire.types import Connection
from rowcall.security import passwords

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
"""Seconds between attempts to connect: doubling from the first to the longest, each with jitter."""

# A peer that vanished without a word is noticed within half a minute; what the connection string says goes before.
_KEEPALIVE: Final[dict[str, Any]] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "connect_timeout": 5,
}

_log = structlog.get_logger(__name__)


class Link:
    """Keeps work running on a connection of its own."""

    def __init__(self, conninfo: str, name: str, work: Callable[[Connection], Awaitable[None]]) -> None:
        """
        Args:
            conninfo: Directly to the server: no transaction pooler can carry LISTEN.
            name: application_name of the connection, and the name in the log.
            work: Runs until the connection breaks; it must let the psycopg.Error out.
        """
        self._conninfo = conninfo
        own = psycopg.conninfo.conninfo_to_dict(conninfo)
        self._parameters: dict[str, Any] = {**_KEEPALIVE, "application_name": name, **own}
        self._name = name
        self._work = work
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts connecting, in the running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    @property
    def started(self) -> bool:
        """Whether it was started, and not closed."""
        return self._task is not None

    async def close(self) -> None:
        """Ends the work and the connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                async with await passwords.connect(
                    psycopg.AsyncConnection.connect, self._conninfo, **self._parameters, autocommit=True
                ) as connection:
                    forks.hold(connection)
                    sessions.look_at(connection)
                    wait = _FIRST_WAIT
                    await self._work(connection)
            except (psycopg.Error, OSError) as error:
                # Hints are only hints: their loss costs time, nothing else.
                _log.warning("hints interrupted, connecting again", link=self._name, error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end hints for good
                _log.error("hints failed, connecting again", link=self._name, exc_info=error)
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - spreads, hides nothing
            wait = min(wait * 2, _LONGEST_WAIT)
