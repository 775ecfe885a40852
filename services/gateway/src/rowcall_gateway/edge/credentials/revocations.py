"""What was revoked, as this gateway knows it: read from the catalogue once a second, and kept while that is away.

Made by `opening`, which hands it what reads the catalogue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from rowcall.errors import RowcallError
from rowcall.rounds import come_round

LOOK_EVERY: Final = 1.0
"""Seconds between two looks: every gateway refuses what was revoked within two."""

_log = structlog.get_logger(__name__)


class Revocation(Protocol):
    """Tokens that are refused; `rowcall.sharding` reads them."""

    @property
    def issuer(self) -> str:
        """Their claim "iss"."""

    @property
    def subject(self) -> str:
        """Their claim "sub"; empty: whoever they are of."""

    @property
    def before(self) -> float:
        """Unix time; those that were issued before it."""

    @property
    def number(self) -> int:
        """Higher than that of every earlier one."""


Reading = Callable[[int], Awaitable[Sequence[Revocation]]]
"""Reads the revocations after a number, the earliest first."""


class Revocations:
    """All that are known."""

    def __init__(self, read: Reading, learnt: Callable[[str, str], None]) -> None:
        """
        Args:
            read: Asks the catalogue.
            learnt: Is told issuer and subject of each that is new.
        """
        self._read = read
        self._learnt = learnt
        self._before: dict[tuple[str, str], float] = {}
        self._last = 0
        self._away = False
        self._reading = asyncio.Lock()

    def covers(self, issuer: str, subject: str, issued_at: float) -> bool:
        """Whether a token is refused."""
        before = self._before
        if not before:
            return False
        of_subject, of_all = before.get((issuer, subject)), before.get((issuer, ""))
        return (of_subject is not None and issued_at < of_subject) or (of_all is not None and issued_at < of_all)

    async def run(self, every: float = LOOK_EVERY) -> None:
        """Reads what is new, until it is cancelled."""
        await come_round("reading revocations", self.look, every)

    async def look(self) -> None:
        """Reads what is new now. Where the catalogue is away, what is known stays."""
        async with self._reading:
            try:
                found = await self._read(self._last)
            except RowcallError as error:
                if not self._away:
                    self._away = True
                    _log.warning(
                        "not read what was revoked, going by what is known",
                        error=error.message,
                        known=len(self._before),
                    )
                return
            if self._away:
                self._away = False
                _log.info("revocations are read again")
            for each in found:
                self._before[each.issuer, each.subject] = each.before
                self._last = max(self._last, each.number)
                self._learnt(each.issuer, each.subject)
