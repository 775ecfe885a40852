"""A settings' file that is read again when it changes: the gateway's issuers and certificates' rules, a worker's prices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from rowcall.rounds import come_round

T = TypeVar("T")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at a file."""

Signature = tuple[int, int, int, int]
"""What changes when a file does, also where a link is pointed elsewhere, as Kubernetes does with what it mounts."""

_log = structlog.get_logger(__name__)


def signature(file: Path) -> Signature:
    """The file as it is now.

    Raises:
        OSError: It is not there, or cannot be looked at.
    """
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class WatchedFile(Generic[T]):
    """One file. What cannot be read or is wrong is said once in the log, and what was there before goes on."""

    def __init__(self, file: Path, read: Callable[[Path], T], changed: Callable[[T], None]) -> None:
        """
        Args:
            file: Where it is.
            read: Reads and checks it; raises ValueError or OSError, with all that is wrong.
            changed: Is handed what is new.
        """
        self._file = file
        self._read = read
        self._changed = changed
        self._seen: Signature | None = signature(file)

    async def watch(self, every: float = LOOK_EVERY) -> None:
        """Looks at it from now on, until it is cancelled."""

        async def look() -> None:
            self.look()

        await come_round(f"looking at {self._file}", look, every, after=every)

    def look(self) -> None:
        """Looks at it now."""
        try:
            now: Signature | None = signature(self._file)
        except OSError:
            now = None
        if now == self._seen:
            return
        self._seen = now
        try:
            found = self._read(self._file)
        except (OSError, ValueError) as error:
            _log.error("not read anew, what was there before goes on", file=str(self._file), error=str(error))
            return
        self._changed(found)
        _log.info("read anew", file=str(self._file))
