"""Which tokens are refused: kept in the catalogue, where every gateway reads it. Part of the router.

Nobody else than gateways asks: `since` once a second, the others for admins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import TupleRow

from rowcall.audit.model import Act

_BATCH: Final = 5000
"""Revocations of one statement."""

Fetch = Callable[[str, Mapping[str, object]], Awaitable[list[TupleRow]]]
"""Runs a statement of `sql/` on the catalogue, as `sources` does."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Tokens that are refused."""

    issuer: str
    """Their claim "iss"."""
    subject: str
    """Their claim "sub"; empty: whoever they are of."""
    before: float
    """Unix time; those that were issued before it."""
    number: int
    """Higher than that of every one that was said earlier."""


@dataclass(frozen=True, slots=True)
class SaidRevocation(Revocation):
    """With what people want to know of it."""

    said_at: datetime
    """When."""
    actor: str | None
    """By whom."""
    note: str | None
    """What for."""


class Revocations:
    """The revocations of the catalogue. Every method raises RowcallError: CATALOGUE_UNAVAILABLE, SCHEMA_MISMATCH or INTERNAL."""

    def __init__(self, fetch: Fetch) -> None:
        """
        Args:
            fetch: Asks the catalogue.
        """
        self._fetch = fetch

    async def since(self, number: int) -> Sequence[Revocation]:
        """Those after a number, the earliest first."""
        found: list[Revocation] = []
        while True:
            rows = await self._fetch("revocations_since", {"number": number, "limit": _BATCH})
            found += [Revocation(*row) for row in rows]
            if len(rows) < _BATCH:
                return found
            number = found[-1].number

    async def revoke(
        self,
        issuer: str,
        subject: str,
        before: datetime | None,
        *,
        by: str | None,
        note: str | None,
        act: Act | None = None,
    ) -> SaidRevocation:
        """Refuses the tokens of a subject (empty: of everybody) that were issued before a time (None: now); what is refused
        then, which is more where a later time was said before. Recorded with it who did."""
        [row] = await self._fetch(
            "revoke_credentials",
            {
                "issuer": issuer,
                "subject": subject,
                "before": before,
                "actor": by,
                "note": note,
                "act": None if act is None else act.json(),
            },
        )
        return SaidRevocation(*row)

    async def page(self, issuer: str, below: int | None, limit: int) -> Sequence[SaidRevocation]:
        """The latest ones, those of an issuer (empty: of all), below a number (None: all)."""
        rows = await self._fetch("list_revocations", {"issuer": issuer, "below": below, "limit": limit})
        return [SaidRevocation(*row) for row in rows]
