"""The end of a service's process: how it hears of it, and that it comes. Used by the `main` of the services, and by `dev`.

What runs in a process may go on whatever it is told: a handler that swallows its cancellation, or holds its thread, the event
loop or the interpreter lock; a database or a collector of spans that takes a connection and never answers. A process that was
told to end ends all the same, within its grace and `MARGIN`:

- signals are heard by the interpreter, not by the event loop, which may be blocked (`Ending`);
- when `main` has returned, what is left in the loop has a second to clean up, and threads are not waited for (`run`, `leave`);
- a thread ends what takes longer, and says what still ran; behind it stands a timer that needs no interpreter lock.

Until then nothing else ends the loop: not a SystemExit in a task or callback that a handler has left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from types import CodeType, FrameType
from typing import Any, Final, NoReturn, TypeVar

import structlog

from rowcall import forks, logs

MARGIN: Final = timedelta(seconds=10)
"""How much longer than its grace an end may take at most: to hand jobs back, write the last outcomes, and leave the shards."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_LOCKED: Final = timedelta(seconds=2)
"""After which a process ends whose interpreter lock is held."""
_KILL: Final = timedelta(seconds=5)
"""After which a supervisor kills it."""

_CLEAN_UP: Final = 1.0
"""Seconds that what is left in the loop has to clean up."""
_LAST_WORDS: Final = 1.0
"""Seconds that the last of stdout has to be written."""
_SHOWN: Final = 20
"""How many tasks and threads are told of at most."""

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")


def kill_after(grace: timedelta) -> float:
    """Seconds after which a process with this grace may be killed by whoever has told it to end: it has not done so itself."""
    return (grace + MARGIN + _KILL).total_seconds()


class Ending:
    """Hears that the process shall end, and sees to it that it does."""

    def __init__(
        self, told: Callable[[], None], grace: timedelta, *, at_once: Callable[[], None] | None = None
    ) -> None:
        """Takes SIGTERM and SIGINT. Made once, in the main thread, within the running event loop.

        The first signal asks for an end in order; the second ends the process at once, with 128 and its number.

        Args:
            told: Called once, in the loop.
            grace: How long an end in order may take; after `MARGIN` more the process is ended, as by a second signal.
            at_once: Called, in a thread, before the process is ended at once; None: nothing is to be done then.
        """
        self._told = told
        self._at_once = at_once
        self._loop = asyncio.get_running_loop()
        self._within = (grace + MARGIN).total_seconds()
        # Both are used within signal handlers, which must not wait for a lock.
        self._begun = itertools.count()
        self._heard: SimpleQueue[tuple[int, bool]] = SimpleQueue()
        """The number of a signal, and whether it came as one."""
        self.signal: signal.Signals | None = None
        """The one that the process ends by; None while none has come."""
        # Started now: within a signal handler that is not safe.
        threading.Thread(target=self._watch, name="rowcall-ending", daemon=True).start()
        for number in _SIGNALS:
            signal.signal(number, self._came)
        os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_hear_nothing)

    def begin(self) -> None:
        """The process shall end, in order: a supervisor's word, which is no signal. From any thread."""
        self._begin(signal.SIGTERM, signalled=False)

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            self._begin(number, signalled=True)
            return
        self._heard.put((number, True))
        # The thread ends the process, with a line in the log; unless it cannot.
        time.sleep(_LAST_WORDS)
        os._exit(128 + number)

    def _begin(self, number: int, *, signalled: bool) -> None:
        if next(self._begun):
            return
        self._heard.put((number, signalled))
        _end_locked(self._within + _LOCKED.total_seconds())

    def _watch(self) -> None:
        number, signalled = self._heard.get()
        if signalled:
            _log.info("stopping", signal=signal.Signals(number).name)
        # Not before: a process that has nothing to end is gone before the line is written.
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._told)
        try:
            number, _ = self._heard.get(timeout=self._within)
        except Empty:
            tasks, threads = _tasks(self._loop), _threads()
            _log.error(
                "the end takes too long, ending at once", seconds=round(self._within), tasks=tasks, threads=threads
            )
        else:
            _log.warning("second signal, ending at once", signal=signal.Signals(number).name)
        if self._at_once is not None:
            self._at_once()
        logs.flush()
        os._exit(128 + number)


_held_back = threading.local()


def _hold_back() -> None:
    """Before a fork: Python forgets a signal that comes in the child's first instant, while this handler is there."""
    _held_back.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held_back.mask)


def _hear_nothing() -> None:
    """In a forked child, which is the handler's: a signal does there what it does in any program, and is not told to our loop."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_through()


def run(main: Coroutine[Any, Any, _T], loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> _T:
    """Runs a coroutine on an event loop that is there as long as it takes; then gives what is left a second to clean up.

    A SystemExit or a KeyboardInterrupt that comes out of another task or a callback is logged, and ends that and nothing
    else; so is it when somebody stops the loop. Threads are not waited for: `leave` must follow.
    """
    loop = loop_factory()
    asyncio.set_event_loop(loop)
    task = loop.create_task(main)
    try:
        _complete(loop, task)
        return task.result()
    finally:
        _complete(loop, loop.create_task(_clean_up(loop)))


def leave(code: int) -> NoReturn:
    """Ends the process with this exit code, whatever still runs in it, when what it has said is written, or after a second."""
    # Whoever reads it may have stalled.
    last_words = threading.Thread(target=_flush_stdout, daemon=True)
    last_words.start()
    last_words.join(_LAST_WORDS)
    logs.flush()
    os._exit(code)


def _flush_stdout() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()


def _complete(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """Runs the loop until the task is done, however often that is left before."""
    while not task.done():
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if forks.in_child():
                forks.leave(error)
            if not task.done():
                _log.error("a task or callback tried to end the process; it goes on", exc_info=error)
        except BaseException:  # noqa: BLE001  what the task itself has raised is for whoever asks for its result
            if not task.done():
                _log.error("somebody has stopped the event loop; it goes on")


async def _clean_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancels what is left, as asyncio.run does, and does not wait for what takes no notice."""
    left = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in left:
        task.cancel()
    left.add(loop.create_task(loop.shutdown_asyncgens()))
    await asyncio.wait(left, timeout=_CLEAN_UP)


def _end_locked(seconds: float) -> None:
    """Ends the process after so many seconds without Python, with exit code 1. Its own account of it would go to a reader that
    may have stalled."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)


def _tasks(loop: asyncio.AbstractEventLoop) -> list[str]:
    """What runs in the loop, by name and place."""
    with contextlib.suppress(RuntimeError):  # too many come and go
        return [f"{task.get_name()} {_waits_in(task)}" for task in itertools.islice(asyncio.all_tasks(loop), _SHOWN)]
    return []


def _waits_in(task: asyncio.Task[Any]) -> str:
    """Where the innermost coroutine of a task is, as far as they are Python's."""
    place = ""
    step: Any = task.get_coro()
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None) or getattr(step, "ag_frame", None)
        if frame is not None:
            place = _place(frame.f_code, frame.f_lineno)
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None) or getattr(step, "ag_await", None)
    return place


def _threads() -> list[str]:
    """The main thread, and those that keep a process from ending, by name and place."""
    frames = sys._current_frames()  # noqa: SLF001  what faulthandler reads too, as values
    shown = [thread for thread in threading.enumerate() if not thread.daemon and thread.ident in frames]
    return [
        f"{thread.name} {_place(frame.f_code, frame.f_lineno)}"
        for thread in shown[:_SHOWN]
        if (frame := frames.get(thread.ident or 0)) is not None
    ]


def _place(code: CodeType, line: int | None) -> str:
    return f"{Path(code.co_filename).name}:{line} {code.co_name}"
