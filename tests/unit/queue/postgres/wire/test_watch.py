"""Watching a socket: what is left behind by one connection is in no other one's way."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import threading
from contextlib import ExitStack
from typing import Any, cast

import uvloop

from rowcall.queue.postgres.wire.watch import Watch
from tests.support.waiting import until


class _Connection:
    """As much of a PGconn as a watch uses."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @property
    def socket(self) -> int:
        return self._end.fileno()

    def flush(self) -> int:
        return 0


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


async def _answered(end: socket.socket) -> int:
    """Reads one answer through a watch, which is let go of afterwards; the descriptor that it watched."""
    done = asyncio.get_running_loop().create_future()
    connection: Any = _Connection(end)
    watch = Watch(connection)

    def readable() -> None:
        watch.stop()
        if not done.done():
            done.set_result(end.recv(10))

    watch.start(readable, done.set_exception)
    descriptor = watch._descriptor
    assert descriptor is not None
    async with asyncio.timeout(20):
        assert await done == b"answer"
    return descriptor


def test_a_connection_that_was_reset_with_its_last_answer_is_in_nobodys_way() -> None:
    async def reset_and_reuse(stack: ExitStack) -> None:
        ours, theirs = _pair()
        stack.callback(ours.close)
        theirs.sendall(b"answer")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        first = await _answered(ours)
        await asyncio.sleep(0)
        gc.collect()
        # The loop forgets it in a turn of its own.
        await asyncio.sleep(0.01)
        # Another connection, watched under the same number: the lowest that is free.
        others, answering = _pair()
        stack.callback(others.close)
        stack.callback(answering.close)
        while (filler := os.open(os.devnull, os.O_RDONLY)) < first:
            stack.callback(os.close, filler)
        os.close(filler)
        answering.sendall(b"answer")
        assert await _answered(others) == first

    # What others have left is not to be collected, and its numbers freed, meanwhile.
    gc.collect()
    with ExitStack() as stack:
        uvloop.run(reset_and_reuse(stack))


class _Recording:
    """A loop that keeps from which threads it was told to forget a descriptor."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.threads: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def remove_reader(self, descriptor: int) -> bool:
        self.threads.append(threading.get_ident())
        return self._loop.remove_reader(descriptor)


def test_whichever_thread_collects_it_the_loop_forgets_in_its_own() -> None:
    """libuv ends the process when a descriptor is taken from it while it polls."""

    async def collect_elsewhere() -> None:
        ours, theirs = _pair()
        with ours, theirs:
            connection: Any = _Connection(ours)
            watch = Watch(connection)
            loop = _Recording(watch.loop)
            watch.loop = cast("asyncio.AbstractEventLoop", loop)
            watch.start(lambda: None, lambda _: None)
            watch.stop()
            await asyncio.to_thread(watch.__del__)
            await until(lambda: bool(loop.threads))
            assert loop.threads == [threading.get_ident()]

    uvloop.run(collect_elsewhere())
