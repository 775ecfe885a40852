"""Standard error that nobody waits for: a bounded buffer, emptied by a thread. Put in place by `rowcall.logs.configure`.

Whoever reads a service's log may stall (a full pipe), go away, or have a full disk. None of that may stop a call, or the end of the
process. So what is written is kept here, and a thread writes it to a duplicate of the descriptor of its own; it holds no lock
while it does, for a thread that hangs within `sys.stderr.write` takes along whoever writes next, and the interpreter's shutdown.
What does not fit is dropped and counted, and told of when the way is free again.

A process that crashes has no threads any more: where it was when it did, the interpreter writes itself, and waits for nobody either.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from rowcall.telemetry import metrics

BUFFER_BYTES: Final = 4 * 1024 * 1024
"""How much is kept: some ten thousand lines, a second of a gateway at full speed."""

LAST_WORDS: Final = 1.0
"""Seconds that the end of the process waits for what is kept to be written, all waits together."""

_WRITE_BYTES: Final = 64 * 1024
"""At most so much at a time: what a pipe takes at once when it is empty."""

_AGAIN_AFTER: Final = 0.5
"""Seconds before a descriptor that failed is tried again: a disk may have room again, a reader that is gone stays away."""

_LOOK_EVERY: Final = 0.002
"""Seconds between looks whether all is written, at the end. No lock is waited for, which somebody might hold."""


class Stderr(io.TextIOBase):
    """What stands in for `sys.stderr`. Writing never waits, and never fails."""

    def __init__(self, descriptor: int, dropped: Callable[[int], str], *, limit: int = BUFFER_BYTES) -> None:
        """
        Args:
            descriptor: Where to write in the end; duplicated.
            dropped: Makes the text that tells of so many lines that were dropped.
            limit: How many bytes are kept.
        """
        super().__init__()
        self._descriptor = os.dup(descriptor)
        self._terminal = os.isatty(descriptor)
        self._tell = dropped
        self._limit = limit
        self._patience = LAST_WORDS
        self.begin()

    def begin(self) -> None:
        """With nothing kept, and no thread yet: as a process begins, and as a forked child does. Its parent writes the rest."""
        # One that a signal handler can take again that interrupts its holder.
        self._lock = threading.RLock()
        self._kept: deque[bytes] = deque()
        self._bytes = 0
        """Of what is kept and of what is being written."""
        self._dropped = 0
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # what a stream of its own has as an attribute
        """UTF-8."""
        return "utf-8"

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return self._terminal

    def fileno(self) -> int:
        """The descriptor that is written to: for programs that are started with it as theirs."""
        return self._descriptor

    def write(self, text: str, /) -> int:
        """Keeps a text to be written; drops it where there is no room."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._bytes + len(data) > self._limit:
                self._dropped += _lines(data)
                metrics.TELEMETRY_DROPPED.add(_lines(data), "log_lines")
                return len(text)
            self._kept.append(data)
            self._bytes += len(data)
            if self._thread is None:
                self._start()
        self._wake.put(None)
        return len(text)

    def flush(self) -> None:
        """Waits until what is kept is written: for a second at most in the whole of the process's life."""
        while self._bytes and self._thread is not None and self._patience > 0:
            time.sleep(_LOOK_EVERY)
            self._patience -= _LOOK_EVERY

    def _start(self) -> None:
        # A daemon: a write that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="rowcall-stderr", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # The process may have no more threads, or the interpreter is ending: the next write tries again.
            self._thread = None

    def _run(self) -> None:
        while True:
            self._wake.get()
            while self._write_some():
                pass

    def _write_some(self) -> bool:
        """Writes as much as a pipe takes, with a word of what was dropped; False: there was nothing."""
        with self._lock:
            parts: list[bytes] = []
            size = 0
            while self._kept and size < _WRITE_BYTES:
                parts.append(self._kept.popleft())
                size += len(parts[-1])
            dropped, self._dropped = self._dropped, 0
        told = self._tell(dropped).encode() if dropped else b""
        if not (parts or told):
            return False
        try:
            self._write_all(b"".join((*parts, told)))
        except OSError:
            with self._lock:
                # What comes later may fare better; what is here has waited long enough.
                lost = sum(map(_lines, (*parts, *self._kept)))
                self._dropped += dropped + lost
                metrics.TELEMETRY_DROPPED.add(lost, "log_lines")
                size += sum(map(len, self._kept))
                self._kept.clear()
            time.sleep(_AGAIN_AFTER)
        with self._lock:
            self._bytes -= size
        return bool(self._kept)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                # Somebody has made it non-blocking: the open file is shared with whoever gave it to us.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()


def _lines(data: bytes) -> int:
    """How many lines of a log a text is: they may come many at a time."""
    return max(data.count(b"\n"), 1)


def put_in_place(dropped: Callable[[int], str]) -> None:
    """Has `sys.stderr` wait for nobody, and everything that writes to it: tracebacks, warnings, libraries. Whoever calls it
    flushes at the end of the process.

    Does nothing where somebody has replaced it already, as a test does that captures it, and where there is none.

    Args:
        dropped: As `Stderr` has it.
    """
    own = sys.__stderr__
    if own is None or own is not sys.stderr:
        return
    try:
        descriptor = own.fileno()
    except (OSError, ValueError):
        return
    own.flush()
    _tell_of_crashes(descriptor)
    made = Stderr(descriptor, dropped)
    os.register_at_fork(after_in_child=made.begin)
    sys.stderr = made


def _tell_of_crashes(descriptor: int) -> None:
    """Has a process that crashes (a segmentation fault in a handler's library) say where it was, in lines of Python's own.

    They go to an open file of their own, for it must not block, and whoever gave us ours may share it. Linux makes one of a
    pipe, a file and a terminal. Of a socket it does not, and a word that might wait for ever is not worth it.
    """
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        faulthandler.enable(os.open(f"/proc/self/fd/{descriptor}", flags))
