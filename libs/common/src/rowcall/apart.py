"""Threads for what is ours and blocks, apart from asyncio's own. Used wherever a file is read, or an exporter ended, beside an event loop.

The few threads of `asyncio.to_thread` are the handlers', in a worker and in whatever shares its event loop: who calls something that never
answers keeps one for good, and when all are kept, what is put to them waits for good too. A password that waits there would keep
every new connection from being made. So what is ours has a thread each time: it is rare, and takes a tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(work: Callable[..., _T], *args: object) -> _T:
    """Calls something in a thread of its own, in a copy of the running context.

    Nobody waits for the thread but whoever awaits this: neither the process at its end, nor who is cancelled meanwhile.

    Args:
        work: What may block.
        args: Its arguments.

    Returns:
        What it returns.

    Raises:
        RuntimeError: The process may have no more threads.
        BaseException: What it raises.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[_T] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(work, *args)
        except BaseException as error:  # noqa: BLE001  raised where it is awaited
            _tell(loop, ended, ended.set_exception, error)
        else:
            _tell(loop, ended, ended.set_result, result)

    # A daemon: what hangs must not keep the process from ending.
    threading.Thread(target=run, name=f"rowcall-{getattr(work, '__name__', 'apart')}", daemon=True).start()
    return await ended


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[_T], tell: Callable[..., None], what: object) -> None:
    def at_the_loop() -> None:
        if not ended.done():
            tell(what)

    # The process may be at its end, and nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(at_the_loop)
