"""What providers ask for their models, from which day on, as an operator has written it down (`ROWCALL_PRICES`). Used by `model_calls`.

A file in TOML. Its prices are exact, in a currency of ISO 4217, of `per` tokens:

    [[price]]
    provider = "openai"     # left out: whoever serves the model
    model = "gpt-7"         # "gpt-7*": all whose names begin so; left out: all of the provider's
    from = 2026-01-01       # a day of UTC
    currency = "USD"
    per = 1_000_000         # tokens; a million where nothing is said
    input = 1.25
    output = 10.0
    cache_read = 0.125      # of the input, what came from the provider's cache; left out: as input
    cache_write = 1.25      # of the input, what was put into it; left out: as input
    call = 0.0              # each call
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, Final

from rowcall.queue.spend import COST_DIGITS, CURRENCIES, MAX_CHARS

LONGEST: Final = 1024 * 1024
"""Bytes of a price table."""
MILLION: Final = 1_000_000

_DIGITS: Final = Decimal(1).scaleb(-COST_DIGITS)
_NAMES: Final = ("provider", "model")
_KINDS: Final = ("input", "output", "cache_read", "cache_write", "call")
_KEYS: Final = frozenset((*_NAMES, "from", "currency", "per", *_KINDS))
_HIGHEST: Final = Decimal(10**9)


class PricesError(ValueError):
    """A price table cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used in a call."""

    input_tokens: int = 0
    """All of the input."""
    output_tokens: int = 0
    cache_read_tokens: int = 0
    """Of the input."""
    cache_write_tokens: int = 0
    """Of the input."""


@dataclass(frozen=True, slots=True)
class Price:
    """What is asked for a model from a day on."""

    provider: str
    """Empty: whoever serves it."""
    model: str
    """Its name; its beginning where it ends in "*"; empty: any, and none."""
    since: date
    currency: str
    per: int
    """Tokens that the prices are of."""
    input: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    cache_read: Decimal | None = None
    """None: as any input."""
    cache_write: Decimal | None = None
    """None: as any input."""
    call: Decimal = Decimal(0)

    def fits(self, provider: str, model: str) -> bool:
        """Whether it is what this provider asks for this model."""
        if self.provider not in ("", provider):
            return False
        if self.model.endswith("*"):
            return model.startswith(self.model[:-1])
        return self.model in ("", model)

    def of(self, usage: Usage) -> Decimal:
        """What so much costs, to a millionth of a millionth."""
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        plain = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        tokens = (
            plain * self.input
            + usage.cache_read_tokens * read
            + usage.cache_write_tokens * write
            + usage.output_tokens * self.output
        )
        return (self.call + tokens / self.per).quantize(_DIGITS, ROUND_HALF_EVEN)


class Prices:
    """A price table."""

    def __init__(self, prices: Sequence[Price] = ()) -> None:
        """Args:
        prices: In any order.
        """
        # What is said most closely comes first, and of that what is youngest.
        self._prices = sorted(
            prices,
            key=lambda each: (
                each.provider != "",
                not each.model.endswith("*"),
                len(each.model),
                each.since,
            ),
            reverse=True,
        )

    def replace(self, prices: Prices) -> None:
        """Goes by another table from now on."""
        self._prices = prices._prices

    def find(self, provider: str, model: str, day: date) -> Price | None:
        """The price of a model on a day: that which names it most closely, the provider before the model; None: nobody said."""
        return next(
            (each for each in self._prices if each.since <= day and each.fits(provider, model)),
            None,
        )


def read_prices(file: Path) -> Prices:
    """The price table in a file.

    Raises:
        PricesError: It cannot be read, or something in it is wrong; with the file, the place and what is possible.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LONGEST + 1)
    except OSError as error:
        raise PricesError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    if len(content) > LONGEST:
        raise PricesError(f"{str(file)!r} has more than {LONGEST} bytes, hence is no price table")
    try:
        table = tomllib.loads(content.decode(), parse_float=Decimal)
    except UnicodeDecodeError as error:
        raise PricesError(f"{str(file)!r} is not text in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise PricesError(f"{str(file)!r} is no TOML: {error}") from error
    except RecursionError as error:
        raise PricesError(f"{str(file)!r} nests deeper than any price table") from error
    try:
        return Prices(_prices(table))
    except PricesError as error:
        raise PricesError(f"{str(file)!r}: {error}") from error


def _prices(table: Mapping[str, Any]) -> list[Price]:
    unknown = sorted(set(table) - {"price"})
    if unknown:
        raise PricesError(f"has {unknown[0]!r}; a price table is nothing but entries [[price]]")
    entries = table.get("price", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PricesError("has a price that is no entry [[price]]")
    prices: list[Price] = []
    for place, entry in enumerate(entries, 1):
        try:
            prices.append(_price(entry))
        except PricesError as error:
            raise PricesError(f"[[price]] number {place} {error}") from error
        earlier = [each for each in prices[:-1] if _named(each) == _named(prices[-1])]
        if earlier:
            raise PricesError(
                f"[[price]] number {place} is of the same model and day as number {prices.index(earlier[0]) + 1}"
            )
    return prices


def _named(price: Price) -> tuple[str, str, date]:
    return price.provider, price.model, price.since


def _price(entry: Mapping[str, Any]) -> Price:
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise PricesError(f"has {unknown[0]!r}; {', '.join(sorted(_KEYS))} are possible")
    names = {name: _name(entry, name) for name in _NAMES}
    if not any(names.values()):
        raise PricesError("names neither provider nor model")
    since = entry.get("from")
    if not isinstance(since, date) or isinstance(since, datetime):
        raise PricesError("has no day in 'from' (as 2026-01-01, without quotes)")
    currency = entry.get("currency")
    if currency not in CURRENCIES:
        raise PricesError(f'has {currency!r} for its currency; three letters of ISO 4217 are possible, as "EUR"')
    per = entry.get("per", MILLION)
    if isinstance(per, bool) or not isinstance(per, int) or not 1 <= per <= 10**9:
        raise PricesError(f"has {per!r} for 'per'; a whole number of tokens from 1 to 1000000000 is possible")
    amounts = {kind: _amount(entry, kind) for kind in _KINDS if kind in entry}
    if not amounts:
        raise PricesError(f"has no price; {', '.join(_KINDS)} are possible")
    return Price(names["provider"], names["model"], since, str(currency), per, **amounts)


def _name(entry: Mapping[str, Any], name: str) -> str:
    text = entry.get(name, "")
    if not isinstance(text, str) or len(text) > MAX_CHARS or (name in entry and not text):
        raise PricesError(f"has {text!r:.80} for its {name}; a name of 1 to {MAX_CHARS} characters is possible")
    if "*" in text[:-1] or (name == "provider" and "*" in text):
        raise PricesError(f"has {text!r} for its {name}; one '*' at the end of a model is possible")
    return text


def _amount(entry: Mapping[str, Any], kind: str) -> Decimal:
    amount = entry[kind]
    if isinstance(amount, bool) or not isinstance(amount, (int, Decimal)):
        raise PricesError(f"has {amount!r:.80} for {kind!r}; a number is possible, without quotes")
    exact = Decimal(amount)
    if not exact.is_finite() or not 0 <= exact <= _HIGHEST:
        raise PricesError(f"has {amount} for {kind!r}; 0 to {_HIGHEST} are possible")
    return exact
