"""How much is let in, as operators set it: kept in the catalogue, where every gateway reads it. Part of the router.

Nobody else than gateways asks: `since` once a second, `set` for admins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from psycopg.rows import TupleRow

from rowcall.audit.model import Act
from rowcall.bounds import Bound, Budget, Target

_BATCH: Final = 5000
"""Bounds of one statement."""

Fetch = Callable[[str, Mapping[str, object]], Awaitable[list[TupleRow]]]
"""Runs a statement of `sql/` on the catalogue, as `sources` does."""


class Bounds:
    """The bounds of the catalogue. Every method raises RowcallError: CATALOGUE_UNAVAILABLE, SCHEMA_MISMATCH or INTERNAL."""

    def __init__(self, fetch: Fetch) -> None:
        """
        Args:
            fetch: Asks the catalogue.
        """
        self._fetch = fetch

    async def since(self, number: int) -> Sequence[Bound]:
        """What was set after a number, the earliest first, with what was taken away."""
        found: list[Bound] = []
        while True:
            rows = await self._fetch("bounds_since", {"number": number, "limit": _BATCH})
            found += map(Bound.of_row, rows)
            if len(rows) < _BATCH:
                return found
            number = found[-1].number

    async def set(
        self,
        target: Target,
        *,
        rate: float | None = None,
        in_flight: int | None = None,
        waiters: int | None = None,
        backlog: int | None = None,
        oldest_age: timedelta | None = None,
        budget: Budget | None = None,
        by: str | None,
        note: str | None,
        act: Act | None = None,
    ) -> Bound:
        """Sets a bound as a whole; without any measure it is taken away. Recorded with it who did."""
        amount, currency, period = budget or (None, None, None)
        [row] = await self._fetch(
            "set_bound",
            {
                "tenant": target.tenant,
                "queue": target.queue,
                "method": target.method,
                "rate": rate,
                "in_flight": in_flight,
                "waiters": waiters,
                "backlog": backlog,
                "oldest_age": oldest_age,
                "actor": by,
                "note": note,
                "budget": amount,
                "budget_currency": currency,
                "budget_period": period,
                "act": None if act is None else act.json(),
            },
        )
        return Bound.of_row(row)
