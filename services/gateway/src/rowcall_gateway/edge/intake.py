"""Calls taken in many at a time. Makes gRPC's server, for the server of ours; `serving` starts it.

gRPC's server in asyncio asks its core for one next call at a time, and asks for another when it has begun with that one: five rounds of
the event loop, and a trip of the thread that polls, for each call (seen with grpcio 1.85.1). The busier the event loop, the longer its
rounds and the fewer calls come in: what more there are wait where nobody can tell them anything until their deadline is over, health
checks among them. Here as many as `AHEAD` are asked for beforehand, and the task that takes them in begins with all that have come in one
round. What gRPC does with a call then is its own.

The core writes a call to where it was told to when it was asked, whatever has become of that memory. What was asked for is therefore
awaited by no task, which whoever cancels all tasks would cancel, but kept until the core has let go of it: when a call comes, or when the
server is stopped. Calls that have come, and that the task no longer takes because the server is being stopped, are told so.

It rests on names inside of gRPC. Where one of them is missing, or does not behave as is written here, calls are taken in as gRPC does it,
and the log says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from types import coroutine
from typing import Any, Final, Self

import grpc.aio
import structlog
from grpc._cython import cygrpc as grpcs  # type: ignore[attr-defined]

from rowcall.errors import Origin, envelope, grpc_code, trailers
from rowcall.tracing import TraceContext
from rowcall_gateway.edge.failures import draining

AHEAD: Final = 128
"""Calls that are asked for beforehand: what may come within one round of the event loop. Some 2 KB each."""

_LET_GO: Final = 5.0
"""Seconds that a server that has stopped has to let go of what was asked for; it does so as it stops."""

_NAMES: Final = ("AioServer", "_RequestCallError", "_ServicerContext")
_METHODS: Final = ("_make_request_call_future", "_request_call", "shutdown")
"""What there must be inside of gRPC."""

_log = structlog.get_logger(__name__)

_kept: Final[set[Coroutine[Any, Any, Any]]] = set()
"""What was asked of any server's core, and has not ended: it has pointers into it, for longer than a server may live that nobody stops."""


class _Otherwise(Exception):
    """gRPC asks for a call, and does not await a future for it."""

    asking: Coroutine[Any, Any, Any]
    """What it has begun."""
    awaited: Any
    """What it awaits instead."""

    def __init__(self, asking: Coroutine[Any, Any, Any], awaited: Any) -> None:
        super().__init__(f"{type(awaited).__name__} awaited")
        self.asking = asking
        self.awaited = awaited


class _Next(asyncio.Future[Any]):
    """The next call, for the task that takes calls in: where it is there already, that task goes on at once."""

    _asked_for = False

    def add_done_callback(self, callback: Callable[[Self], object], *, context: Context | None = None) -> None:
        """Calls back at once, who asks first, where the call is there."""
        if self._asked_for or not self.done() or self.cancelled():
            super().add_done_callback(callback, context=context)
        else:
            callback(self)
        self._asked_for = True


class Intake:
    """What a server has asked its core for, and what of it has come. Used in its event loop alone."""

    def __init__(self, request: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """
        Args:
            request: Asks gRPC's core for a call: a coroutine that awaits one future, and returns the call.
        """
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._asked: set[asyncio.Future[Any]] = set()
        self._came: deque[Any] = deque()
        self._next: _Next | None = None
        self._ended = False
        self._refusing: set[asyncio.Task[None]] = set()
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(self._end)

    def next(self) -> asyncio.Future[Any]:
        """The next call, one for each time that this is called.

        Raises:
            Exception: What gRPC raises where it does not take the question.
        """
        while len(self._asked) + len(self._came) < AHEAD:
            self._ask()
        found = _Next(loop=self._loop)
        if self._came:
            found.set_result(self._came.popleft())
        else:
            self._next = found
        return found

    async def close(self) -> None:
        """Waits until the core has let go, and those who came too late know; once the server has stopped."""
        if self._asked:
            await asyncio.wait(self._asked, timeout=_LET_GO)
        if self._refusing:
            await asyncio.wait(self._refusing, timeout=_LET_GO)

    def _ask(self) -> None:
        asking = self._request()
        # As a task would, but nobody can cancel it.
        awaited = asking.send(None)
        _kept.add(asking)
        if not isinstance(awaited, asyncio.Future):
            raise _Otherwise(asking, awaited)
        self._asked.add(awaited)
        awaited.add_done_callback(partial(self._answered, asking))

    def _answered(self, asking: Coroutine[Any, Any, Any], awaited: asyncio.Future[Any]) -> None:
        self._asked.discard(awaited)
        _kept.discard(asking)
        try:
            asking.send(None)
        except StopIteration as came:
            self._take(came.value)
        except Exception as error:  # noqa: BLE001 - it is for gRPC's task to know what to do about it
            if self._next is not None and not self._next.done():
                self._next.set_exception(error)

    def _take(self, call: Any) -> None:
        if self._ended:
            self._turn_away(call)
        elif self._next is None or self._next.done():
            self._came.append(call)
        else:
            self._next.set_result(call)

    def _end(self, _: asyncio.Task[Any]) -> None:
        """The task takes no more calls in."""
        self._ended = True
        while self._came:
            self._turn_away(self._came.popleft())

    def _turn_away(self, call: Any) -> None:
        task = self._loop.create_task(_refuse(call, self._loop), name="refusing a call that came too late")
        self._refusing.add(task)
        task.add_done_callback(self._refusing.discard)


async def _refuse(call: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Tells a caller that the gateway is being stopped (GATEWAY_DRAINING), whatever was called."""
    try:
        context = grpcs._ServicerContext(call, None, None, loop)  # noqa: SLF001 - see the module
        trace = TraceContext.from_metadata(context.invocation_metadata() or ())
        status = envelope(draining(), origin=Origin.GATEWAY, trace_id=trace.trace_id)
        await context.abort(grpc_code(status), status.message, trailers(status, no_retry=False))
    except grpc.aio.AbortError:
        return
    except Exception as error:  # noqa: BLE001 - its caller is gone, or the server is
        _log.info("a call that came too late was not told so", exception=type(error).__name__)


@coroutine
def _gone_on(asking: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """Goes on with what was begun outside of a task, in the one that this is run in."""
    while True:
        sent = yield awaited
        try:
            awaited = asking.send(sent)
        except StopIteration as ended:
            return ended.value


def make_server(options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    """A server of gRPC's that takes calls in many at a time.

    Args:
        options: Its channel arguments.
    """
    lacking = [
        *(name for name in _NAMES if not hasattr(grpcs, name)),
        *(name for name in _METHODS if not hasattr(getattr(grpcs, "AioServer", None), name)),
    ]
    if lacking:
        _one_at_a_time(f"it has no {', '.join(lacking)}")
        return grpc.aio.server(options=options)
    with _in_place(_taking_in(grpcs.AioServer)):
        return grpc.aio.server(options=options)


def _taking_in(base: Any) -> Any:
    """The class of gRPC's server in asyncio, with an intake."""

    class TakingIn(base):  # type: ignore[misc]
        """A server's core, asked for calls ahead."""

        intake: Intake | None = None
        as_ever = False

        def _make_request_call_future(self, method: bytes | None) -> Any:
            """The next call of whatever method; of one that is registered by name as gRPC does it. Called by gRPC's task."""
            if method is not None or self.as_ever:
                return super()._make_request_call_future(method)
            if self.intake is None:
                self.intake = Intake(self._request_call)
            try:
                return self.intake.next()
            except _Otherwise as found:
                self.as_ever = True
                _one_at_a_time(f"it asks for them otherwise: {found}")
                return asyncio.get_running_loop().create_task(_gone_on(found.asking, found.awaited))

        async def shutdown(self, grace: float | None) -> None:
            """Stops; see grpc.aio.Server.stop."""
            await super().shutdown(grace)
            if self.intake is not None:
                await self.intake.close()

    return TakingIn


@contextmanager
def _in_place(server: Any) -> Iterator[None]:
    """Has gRPC make a server of this class, and nobody else: nothing else runs meanwhile."""
    before, grpcs.AioServer = grpcs.AioServer, server
    try:
        yield
    finally:
        grpcs.AioServer = before


def _one_at_a_time(why: str) -> None:
    _log.warning(
        "this gRPC's server takes calls in one at a time: under load, fewer will be answered in time", cause=why
    )
