"""Calls whose path is no text, kept from ending the server. Called by `serving`, in place of gRPC's own start.

gRPC's server decodes each call's path in the one task that takes calls in (seen with grpcio 1.85.1). A path that is not UTF-8
raises there, and with that task the whole server ends, with every call on it: by one request, from anybody who reaches the port,
without any credential. No option, filter or interceptor of gRPC's comes before it. What does come before is Python's own
handler of undecodable bytes, which is looked up by its name, "strict". The one that is put in its place here does what that
does, everywhere but in the tasks of such a server: there the path has marks where it is no text, and is a method that nobody
serves.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakSet

import grpc.aio

_NO_TEXT: Final = "\N{REPLACEMENT CHARACTER}"

_taking_in: Final[WeakSet[asyncio.Task[Any]]] = WeakSet()
"""The tasks that take calls in."""

_strict: Final = codecs.lookup_error("strict")


async def start(server: grpc.aio.Server) -> Sequence[asyncio.Task[Any]]:
    """Starts a server that lives on whatever path it is called with; the tasks that take its calls in."""
    before = asyncio.all_tasks()
    await server.start()
    # Tasks of others may have begun meanwhile: those of gRPC are compiled by Cython.
    tasks = [task for task in asyncio.all_tasks() - before if type(task.get_coro()).__module__.startswith("_cython")]
    _taking_in.update(tasks)
    codecs.register_error("strict", _decoded)
    return tasks


def _decoded(error: UnicodeError) -> tuple[str | bytes, int]:
    """What undecodable bytes are read as, and where to go on; else raises the error, as ever."""
    if isinstance(error, UnicodeDecodeError) and _takes_in():
        return _NO_TEXT, error.end
    return _strict(error)


def _takes_in() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread without an event loop
        return False
    return task is not None and task in _taking_in
