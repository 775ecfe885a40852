"""How much is let in, as plain values: what a bound is of, and what it bounds. The catalogue keeps bounds, shards a copy of them.

Used by the router (`sharding.bounds`), the queue (`queue.protocol.AdmissionStore`) and the gateway.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

EACH_TENANT: Final = "-"
"""In place of a tenant: each by itself."""


class Target(NamedTuple):
    """What a bound is of; empty where it is not of any one."""

    tenant: str = ""
    """A tenant's name, or `EACH_TENANT`."""
    queue: str = ""
    method: str = ""
    """package.Service/Method"""


class BudgetPeriod(enum.IntEnum):
    """For how long a budget is."""

    DAY = 1
    """Of UTC."""
    MONTH = 2
    """Of UTC."""


class Budget(NamedTuple):
    """What may be spent in a period."""

    amount: Decimal
    currency: str
    """ISO 4217; what costs in another one is not counted."""
    period: BudgetPeriod


@dataclass(frozen=True, slots=True)
class Bound:
    """How much of something is let in; None: as much as comes."""

    target: Target
    rate: float | None
    """Jobs a second."""
    in_flight: int | None
    """Calls served at a time."""
    waiters: int | None
    """Calls that wait for their jobs at a time."""
    backlog: int | None
    """READY jobs of a tenant in a lane of a queue; of a queue alone: in all of it."""
    oldest_age: timedelta | None
    """For how long the oldest READY job of a queue has waited."""
    number: int
    """Higher than that of everything that was set earlier."""
    updated_at: datetime
    actor: str | None
    note: str | None
    budget: Budget | None = None
    """What the tenant's calls of models and providers may cost."""

    @property
    def bounds(self) -> bool:
        """Whether it bounds anything; else it was taken away."""
        return (
            self.rate is not None
            or self.in_flight is not None
            or self.waiters is not None
            or self.backlog is not None
            or self.oldest_age is not None
            or self.budget is not None
        )

    @property
    def row(self) -> tuple[object, ...]:
        """Its columns, as statements of catalogue and shards have them."""
        return (
            *self.target, self.rate, self.in_flight, self.waiters, self.backlog, self.oldest_age, self.number,
            self.updated_at, self.actor, self.note, *(self.budget or (None, None, None)),
        )  # fmt: skip

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Bound:
        """The bound that such columns are of."""
        *before, amount, currency, period = row
        tenant, queue, method, *measures = before
        budget = None if amount is None else Budget(amount, currency, BudgetPeriod(period))
        return replace(cls(Target(tenant, queue, method), *measures), budget=budget)
