"""Price tables: which price a call has, what it comes to, and what is said of a table that cannot be used."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from rowcall.settings import SettingsError, read_settings
from rowcall_worker.serving.prices import Prices, PricesError, Usage, read_prices
from rowcall_worker.settings import WorkerSettings

TABLE = """
[[price]]
provider = "openai"
model = "gpt-7"
from = 2026-01-01
currency = "USD"
input = 2.50
output = 10
cache_read = 0.25

[[price]]
provider = "openai"
model = "gpt-7"
from = 2026-07-01
currency = "USD"
input = 2

[[price]]
model = "gpt-7*"
from = 2026-01-01
currency = "EUR"
input = 3

[[price]]
provider = "openai"
from = 2026-01-01
currency = "USD"
call = 0.005
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A price table."""
    file = tmp_path / "prices.toml"
    file.write_text(TABLE)
    return file


@pytest.mark.parametrize(
    ("name", "day", "cost", "currency"),
    [
        (("openai", "gpt-7"), date(2026, 6, 30), "0.0030", "USD"),
        (("openai", "gpt-7"), date(2026, 7, 1), "0.002", "USD"),
        (("azure", "gpt-7-mini"), date(2026, 7, 1), "0.003", "EUR"),
        (("openai", "gpt-7-mini"), date(2026, 7, 1), "0.005", "USD"),
        (("openai", ""), date(2026, 7, 1), "0.005", "USD"),
    ],
)
def test_what_names_a_model_most_closely_is_its_price(
    file: Path, name: tuple[str, str], day: date, cost: str, currency: str
) -> None:
    price = read_prices(file).find(*name, day)
    assert price is not None
    assert (price.of(Usage(input_tokens=1000, output_tokens=50)), price.currency) == (Decimal(cost), currency)


def test_what_nobody_has_a_price_for_has_none(file: Path) -> None:
    prices = read_prices(file)
    assert prices.find("openai", "gpt-7", date(2025, 12, 31)) is None, "before the first day of any"
    assert prices.find("mistral", "large", date(2026, 7, 1)) is None
    assert Prices().find("openai", "gpt-7", date(2026, 7, 1)) is None


def test_tokens_of_the_cache_have_prices_of_their_own(file: Path) -> None:
    price = read_prices(file).find("openai", "gpt-7", date(2026, 2, 1))
    assert price is not None
    # 600 at 2.50, 300 from the cache at 0.25, 100 put into it as any input, 7 of output at 10: each a million.
    assert price.of(Usage(1000, 7, 300, 100)) == Decimal("0.001895")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("price = 3", "has a price that is no entry"),
        ("[prices]\n", "has 'prices'; a price table is nothing but entries"),
        ("[[price]\n", "is no TOML"),
        ("[[price]]\ninput = 1\n", "number 1 names neither provider nor model"),
        ("[[price]]\nmodel = ''\ninput = 1\n", "number 1 has '' for its model"),
        ("[[price]]\nmodel = 'a*b'\ninput = 1\n", "one '*' at the end of a model"),
        ("[[price]]\nprovider = 'a*'\ninput = 1\n", "one '*' at the end of a model"),
        ("[[price]]\nmodel = 'm'\nfrom = '2026-01-01'\n", "has no day in 'from'"),
        ("[[price]]\nmodel = 'm'\nfrom = 2026-01-01T00:00:00Z\n", "has no day in 'from'"),
        ("[[price]]\nmodel = 'm'\nfrom = 2026-01-01\ncurrency = 'XYZ'\n", "has 'XYZ' for its currency"),
        ("[[price]]\nmodel = 'm'\nfrom = 2026-01-01\ncurrency = 'EUR'\nper = 0\n", "has 0 for 'per'"),
        ("[[price]]\nmodel = 'm'\nfrom = 2026-01-01\ncurrency = 'EUR'\n", "has no price"),
        ("[[price]]\nmodel = 'm'\nfrom = 2026-01-01\ncurrency = 'EUR'\ninput = '1'\n", "has '1' for 'input'"),
        ("[[price]]\nmodel = 'm'\nfrom = 2026-01-01\ncurrency = 'EUR'\ninput = nan\n", "has NaN for 'input'"),
        ("[[price]]\nmodel = 'm'\nfrom = 2026-01-01\ncurrency = 'EUR'\noutput = -1\n", "has -1 for 'output'"),
        ("[[price]]\nmodel = 'm'\nfrom = 2026-01-01\ncurrency = 'EUR'\nreasoning = 1\n", "has 'reasoning'"),
        (
            "[[price]]\nmodel = 'm'\nfrom = 2026-01-01\ncurrency = 'EUR'\ninput = 1\n" * 2,
            "same model and day as number 1",
        ),
        ("#" * (1024 * 1024 + 1), "more than 1048576 bytes"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(PricesError) as caught:
        read_prices(file)
    assert told in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PricesError, match="cannot be read: No such file"):
        read_prices(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(PricesError, match="not text in UTF-8"):
        read_prices(tmp_path / "latin.toml")


def test_another_table_takes_its_place(file: Path) -> None:
    prices = Prices()
    prices.replace(read_prices(file))
    assert prices.find("openai", "gpt-7", date(2026, 2, 1)) is not None
    prices.replace(Prices())
    assert prices.find("openai", "gpt-7", date(2026, 2, 1)) is None


def test_a_worker_does_not_start_with_a_table_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("[[price]]\nmodel = 'm'\n")
    databases = ["--catalogue", "postgresql:///none", "--shard", "a=postgresql:///none_a"]
    with pytest.raises(SettingsError) as caught:
        read_settings(WorkerSettings, [*databases, "--prices", str(file)])
    assert "ROWCALL_PRICES (--prices)" in str(caught.value)
    assert "[[price]] number 1 has no day in 'from'" in str(caught.value)
