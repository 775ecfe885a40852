"""Whether exporters take what they are given: what they did not is counted, and the log says when that begins and when it ends. Used by `spans`
and by `push`, each in a thread of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import structlog
from opentelemetry import context as otel_context

from rowcall.telemetry import metrics

_log = structlog.get_logger(__name__)

_counting = threading.Lock()


def _afresh() -> None:
    """A child that was forked while somebody counted must be able to."""
    global _counting  # noqa: PLW0603  the process's
    _counting = threading.Lock()


os.register_at_fork(after_in_child=_afresh)


def dropped(count: int, what: str) -> None:
    """Counts what was dropped, in any thread.

    Args:
        count: How many; 0 is nothing.
        what: Whose they were, as an exporter's are counted.
    """
    if count:
        with _counting:
            metrics.TELEMETRY_DROPPED.add(count, what)


def unobserved() -> None:
    """Has nobody trace what the running thread's exporter calls: each batch would make the next one."""
    otel_context.attach(otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, value=True))  # noqa: SLF001


class Taking:
    """What one exporter has taken so far."""

    def __init__(self, sort: str, what: str) -> None:
        """
        Args:
            sort: What it is given, for the log: "spans".
            what: What is counted by that it did not take.
        """
        self._sort = sort
        self._what = what
        self._failed = False

    def hand_on(self, export: Callable[[], bool], count: int) -> None:
        """Gives it so many, by `export`, which says whether they were taken."""
        try:
            taken, cause = export(), None
        except Exception as error:  # noqa: BLE001  an exporter may raise anything, and those after it are still wanted
            taken, cause = False, error
        if not taken:
            dropped(count, self._what)
        if taken is self._failed:
            # Told when it changes: an exporter that is away is away for every batch.
            self._failed = not taken
            if taken:
                _log.info(f"{self._sort} are taken again", kind=self._what)
            else:
                _log.warning(
                    f"{self._sort} are dropped: their exporter does not take them", kind=self._what, exc_info=cause
                )
