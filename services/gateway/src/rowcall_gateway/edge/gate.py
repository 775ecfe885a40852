"""Whether the gateway takes calls, and how many it is serving. The interceptor passes each call through it."""

from __future__ import annotations

import asyncio
from types import TracebackType

from rowcall_gateway.edge.failures import draining


class Gate:
    """Open while the gateway serves; closed when it drains. Calls that are inside finish."""

    def __init__(self) -> None:
        self._inside = 0
        self._leaving_at: float | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """How many calls are being served."""
        return self._inside

    def close(self, leaving_at: float = 0.0) -> None:
        """Lets nobody in any more.

        Args:
            leaving_at: The loop's time when clients are sent away from their connections.
        """
        self._leaving_at = leaving_at

    async def empty(self) -> None:
        """Returns when no call is being served."""
        await self._empty.wait()

    def __enter__(self) -> None:
        """Lets a call in.

        Raises:
            RowcallError: GATEWAY_DRAINING.
        """
        if self._leaving_at is not None:
            raise draining(self._leaving_at - asyncio.get_running_loop().time())
        self._inside += 1
        self._empty.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside -= 1
        if self._inside == 0:
            self._empty.set()
