"""What calls of models and providers cost: data that is kept with the job's outcome, and longer than the job. Below `model`."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

MAX_CHARS: Final = 255
"""Of a name or a verdict."""
MAX_TOKENS: Final = 2**53
"""Of one call: no sum of a day's overflows."""
MAX_COST: Final = Decimal(10**12)
"""Of one call, in its currency."""
COST_DIGITS: Final = 12
"""Behind the point, at most."""

_CURRENCY = re.compile("[A-Z]{3}", re.ASCII)


class SpendKind(enum.IntEnum):
    """What was called."""

    MODEL = 1
    """A model: tokens are counted."""
    PROVIDER = 2
    """Another service that charges."""


@dataclass(frozen=True, slots=True)
class Spend:
    """One call of a model or provider that a handler made, under the lease number of its attempt.

    Tenant, job, lease number and `call` name it: told twice, it is counted once.

    Raises:
        ValueError: Something of it cannot be kept; the message says what, and what is possible.
    """

    call: int
    """Which call of its attempt, from 1."""
    kind: SpendKind
    method_id: int
    """The job's method, as its shard numbers it."""
    provider: str
    """Who was called: gen_ai.provider.name."""
    model: str = ""
    """Which model: gen_ai.request.model; empty where there is none."""
    trace_id: UUID | None = None
    """The trace that the job belongs to."""
    input_tokens: int | None = None
    """gen_ai.usage.input_tokens"""
    output_tokens: int | None = None
    """gen_ai.usage.output_tokens"""
    cost: Decimal | None = None
    """Exact, in `currency`; None: not known."""
    currency: str | None = None
    """ISO 4217, where there is a cost."""
    latency: timedelta | None = None
    """How long the call took."""
    verdict: str | None = None
    """What came of it, in the handler's words."""

    def __post_init__(self) -> None:
        if not 1 <= self.call < 2**31:
            raise ValueError(f"Spend.call is {self.call}; calls are counted from 1")
        for name in ("provider", "model", "verdict"):
            text = getattr(self, name)
            if text is not None and (len(text) > MAX_CHARS or "\0" in text):
                raise ValueError(f"Spend.{name} has NUL, or more than {MAX_CHARS} characters")
        if not self.provider:
            raise ValueError("Spend.provider is empty; say who was called")
        for name in ("input_tokens", "output_tokens"):
            tokens = getattr(self, name)
            if tokens is not None and not 0 <= tokens <= MAX_TOKENS:
                raise ValueError(f"Spend.{name} is {tokens}; 0 to {MAX_TOKENS} are possible")
        if self.latency is not None and self.latency < timedelta(0):
            raise ValueError(f"Spend.latency is {self.latency}: no call takes less than nothing")
        if (self.cost is None) != (self.currency is None):
            raise ValueError("Spend.cost and Spend.currency go together: give both or neither")
        if self.cost is not None:
            _check_cost(self.cost)
        if self.currency is not None and _CURRENCY.fullmatch(self.currency) is None:
            raise ValueError(f"Spend.currency is {self.currency!r}; three letters of ISO 4217 are possible, as EUR")


def _check_cost(cost: Decimal) -> None:
    exponent = cost.as_tuple().exponent
    if not cost.is_finite() or not isinstance(exponent, int) or exponent < -COST_DIGITS or not 0 <= cost < MAX_COST:
        raise ValueError(
            f"Spend.cost is {cost}; from 0 to below {MAX_COST:E} are possible, with {COST_DIGITS} digits behind the point"
        )
