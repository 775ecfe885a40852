"""SIGTERM and SIGINT: the first asks for an orderly end, the second ends the process at once. Used by `dev` and `demo`.

At once means without any handler's leave. The embedded Postgres is stopped by its guardian, and what was acknowledged is committed.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from rowcall.ending import Ending

_T = TypeVar("_T")


class Interrupted(Exception):
    """The first signal came while something was being done that ends with it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class Signals:
    """Watches for signals on the running event loop, from its making on."""

    def __init__(self, within: timedelta) -> None:
        """`within`: how long the end may take, as `rowcall.ending.Ending` has it."""
        self._first: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        self._ending = Ending(self._came, within)

    def _came(self) -> None:
        number = self._ending.signal
        if number is not None:
            self._first.set_result(number)

    @property
    def came(self) -> bool:
        """Whether the first signal has come."""
        return self._first.done()

    async def wait(self) -> signal.Signals:
        """The first signal, once it has come."""
        return await asyncio.shield(self._first)

    async def during(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something that the first signal cancels.

        Raises Interrupted then, when the work has ended.
        """
        task = asyncio.ensure_future(work)
        await asyncio.wait((task, self._first), return_when=asyncio.FIRST_COMPLETED)
        if self._first.done() and not task.done():
            task.cancel()
            await asyncio.wait({task})
            raise Interrupted(self._first.result())
        return await task
