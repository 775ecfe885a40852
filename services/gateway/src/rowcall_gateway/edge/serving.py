"""gRPC's server as a gateway has it: started, watched while it serves, stopped. Used by the server.

gRPC takes calls in in one task. What is raised there, or cancels it, ends the server, and tells nobody who does not ask: the process
lives on with a port that is closed, or, after a cancellation, with one that takes connections and answers none. And what awaited the
next call is freed with that task, while gRPC's core still has where to write it to: zeros, or a call, come to lie in whatever has
that memory by then (all seen with grpcio 1.85.1). So that task is watched, and the process ends at once when it does. `paths` keeps
from it what is known to be raised there; this is for what is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final, Self

import grpc.aio
import structlog

from rowcall import ending
from rowcall_gateway.edge import paths

_TAKES_IN: Final = "_server_main_loop"
"""What gRPC calls that task's coroutine; `grpc.aio.Server.wait_for_termination` would tell of an error when the last call of before
has ended, minutes later, and of a cancellation never."""

_GRPCS_LOG: Final = "grpc._cython.cygrpc"
_NO_TEXT: Final = "Invalid encoding"
"""How its line begins of metadata that is not UTF-8, which then quotes it: it may be a token with one wrong letter in it."""
_GONE: Final = "ExecuteBatchError raised in core"
"""How its line begins, with a traceback, of an answer whose caller is gone: whoever resets call after call would have one written for each."""

FAILED: Final = 1
"""The exit code then: whoever started the process starts it again."""

_log = structlog.get_logger(__name__)


class Serving:
    """A server that serves. Made by `start`."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._stopping = False

    @classmethod
    async def start(cls, server: grpc.aio.Server) -> Self:
        """Starts a server. When it takes in no more calls though nobody has stopped it, the log says why, and the process ends.

        Args:
            server: With its handlers and its ports.
        """
        logging.getLogger(_GRPCS_LOG).addFilter(_is_told)
        serving = cls(server)
        serving._watch(await paths.start(server))
        return serving

    async def stop(self, grace: float | None) -> None:
        """Takes in no more calls, and waits for those that are there.

        Args:
            grace: Seconds that they have; None: they are cut off at once.
        """
        self._stopping = True
        await self._server.stop(grace)

    def _watch(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        found = [task for task in tasks if getattr(task.get_coro(), "__name__", "") == _TAKES_IN]
        if not found:
            _log.warning("this gRPC's server cannot be watched: nobody would notice if it ended by itself")
        for task in found:
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        # Retrieves it, too.
        error = asyncio.CancelledError("cancelled") if task.cancelled() else task.exception()
        if self._stopping:
            return
        _log.error(
            "gRPC's server has ended by itself: so does the process", exc_info=error or RuntimeError("it returned")
        )
        ending.leave(FAILED)


def _is_told(record: logging.LogRecord) -> bool:
    """Whether a line of gRPC's may be written. The calls of those that are not have lines of ours."""
    return not str(record.msg).startswith((_NO_TEXT, _GONE))
