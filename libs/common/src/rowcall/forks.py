"""What becomes of a child that a handler forks: it ends when it comes back to us, and never acts as the worker.

`os.fork()` in a handler gives a process with the worker's memory and sockets, which goes on where the handler is. What it does
there is the handler's business (it may exec, compute, be multiprocessing's), but from there it must not come back into
the worker's event loop or thread, whose next step would be another job's. So in such a child, and at no cost to the parent:

- our sessions with databases are cut (`hold`): the child can write nothing into them, and a worker that dies is seen to be dead
  although a child of its lives on;
- the loop ends the child as soon as it gets control back, before anything else runs in it (`watch`);
- so do threads of pools that a handler runs in.

Used by whoever opens connections, and by the worker, which asks `in_child` where handlers come back to it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import contextlib
import inspect
import os
import threading
from typing import Final, NoReturn, Protocol
from weakref import WeakSet

_CAME_BACK: Final = (
    "rowcall: a child that a handler forked came back into the worker, and was ended. End it in the handler: os._exit, exec, "
    "or use multiprocessing.\n"
)


class Session(Protocol):
    """A connection to a database."""

    def fileno(self) -> int:
        """Its socket; raises where it is closed."""


_sessions: Final[WeakSet[Session]] = WeakSet()
_loops: Final[WeakSet[asyncio.AbstractEventLoop]] = WeakSet()
_threads: Final[dict[int, None]] = {}
_child = False


def hold(session: Session) -> None:
    """Cuts this session in every child that is forked while it is open."""
    _sessions.add(session)


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Ends every child that comes back to this loop, which is the calling thread's."""
    _loops.add(loop)
    _threads[threading.get_ident()] = None


def in_child() -> bool:
    """Whether this process was forked by one that watched its loop."""
    return _child


def leave(error: BaseException | None) -> NoReturn:
    """Ends the child, whose handler returned or raised: with the code that it asked for, 0 where it returned, else 1."""
    os.write(2, _CAME_BACK.encode())
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    os._exit(code & 0xFF)


def _forked() -> None:
    """Called in the child, within `fork`."""
    global _child  # noqa: PLW0603  it is the process that changed
    _cut_sessions()
    if not _loops:
        return
    _child = True
    if threading.get_ident() in _threads:
        for loop in list(_loops):
            _end_when_back(loop)
    else:
        _end_pooled_thread()


def _cut_sessions() -> None:
    if not _sessions:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for session in list(_sessions):
        # Closed ones, and such as were being opened or closed.
        with contextlib.suppress(Exception):
            os.dup2(nowhere, session.fileno(), inheritable=False)
    os.close(nowhere)


def _end_when_back(loop: asyncio.AbstractEventLoop) -> None:
    # A task whose step ends, and any other one whose step would begin, finds somebody else's mark: an error, which the
    # loop hands on at once.
    with contextlib.suppress(Exception):
        loop.set_exception_handler(lambda _loop, _context: leave(RuntimeError()))
        marks = asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # noqa: SLF001  asyncio's only mark of whose turn it is
        marks[loop] = _child
    # Where it is no task, or Python keeps its marks elsewhere: before the loop waits again.
    with contextlib.suppress(Exception):
        loop.call_soon(leave, RuntimeError())


class _Leaving:
    """What a pool's thread finds when it is done."""

    def release(self) -> None:
        leave(None)


def _end_pooled_thread() -> None:
    """The one thread of the child is a pool's, asyncio.to_thread's say: it would wait for work that never comes."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_filename == concurrent.futures.thread.__file__ and "executor_reference" in frame.f_locals:
            with contextlib.suppress(Exception):
                frame.f_locals["executor_reference"]()._idle_semaphore = _Leaving()  # noqa: SLF001  what it comes back to
        frame = frame.f_back


os.register_at_fork(after_in_child=_forked)
