"""Signals before a program's own handlers are there. Called by the entry of each service, before it imports anything else.

The kernel ignores SIGTERM for the first process of a container (of a process namespace) unless that has a handler: sent while
a service is still importing what it needs, it would be lost, and the service started up after it was told to end.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def end_on_signals() -> None:
    """Has SIGTERM and SIGINT end this process at once, with 128 and the signal's number, until other handlers are set.

    Nothing is lost by it: what a service has not begun it need not finish.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def interrupt() -> None:
    """Has SIGINT raise KeyboardInterrupt again, in the main thread, as Python does by itself."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
