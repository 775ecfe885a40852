"""What calls of models and providers cost: data that is kept with the job's outcome, and longer than the job. Below `model`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import date, timedelta
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

_CODES: Final = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CLF "
    "CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF "
    "IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT "
    "MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD "
    "SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS "
    "VED VES VND VUV WST XAF XCD XCG XDR XOF XPF XSU XUA YER ZAR ZMW ZWG"
)
CURRENCIES: Final = frozenset(_CODES.split())
"""ISO 4217, list one, as of 2025: currencies and funds, without metals, test codes and "no currency"."""


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
            if text is not None and (len(text) > MAX_CHARS or "\0" in text or not _is_utf8(text)):
                raise ValueError(f"Spend.{name} has NUL, half a surrogate, or more than {MAX_CHARS} characters")
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
        if self.currency is not None and self.currency not in CURRENCIES:
            raise ValueError(f"Spend.currency is {self.currency!r}; three letters of ISO 4217 are possible, as EUR")


def plain(amount: Decimal) -> str:
    """An amount for people and messages: all its digits, without what is nought at the end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class SpendBy(enum.StrEnum):
    """What sums are made by, beside the currency."""

    TENANT = "tenant"
    DAY = "day"
    METHOD = "method"
    PROVIDER = "provider"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class SpendFilter:
    """Which calls are summed: of days, or of one job or trace; None: whichever."""

    tenant: str | None
    """None: of all tenants."""
    first: date | None = None
    """Day of UTC; None: thirty days, with the last. Of no matter where a job or trace is named."""
    last: date | None = None
    """This one too; None: today, by the shard's clock."""
    job_id: UUID | None = None
    """Of one of the tenant's jobs alone, which may be gone."""
    trace_id: UUID | None = None
    """Of all jobs of one trace."""
    method: str | None = None
    """package.Service/Method"""
    provider: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class SpendSum:
    """What such calls cost; None, where sums are not made by that."""

    tenant: str | None
    day: date | None
    method: str | None
    provider: str | None
    model: str | None
    currency: str
    """Empty: of calls whose cost nobody knows."""
    calls: int
    input_tokens: Decimal
    output_tokens: Decimal
    cost: Decimal
    """Exact, in `currency`."""

    def plus(self, other: SpendSum) -> SpendSum:
        """Both together; they are of the same."""
        return replace(
            self,
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=self.cost + other.cost,
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_cost(cost: Decimal) -> None:
    exponent = cost.as_tuple().exponent
    if not cost.is_finite() or not isinstance(exponent, int) or exponent < -COST_DIGITS or not 0 <= cost < MAX_COST:
        raise ValueError(
            f"Spend.cost is {cost}; from 0 to below {MAX_COST:E} are possible, with {COST_DIGITS} digits behind the point"
        )
