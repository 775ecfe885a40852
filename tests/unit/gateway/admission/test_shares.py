"""Shares of a bound: together the bound and no more, wherever the calls come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcall_gateway.admission.shares import places, rate_share

RATES = st.floats(min_value=0, max_value=1e5)
NEEDS = st.lists(st.floats(min_value=0, max_value=1e5), min_size=1, max_size=8)


@given(bound=RATES, needs=NEEDS)
def test_the_shares_of_a_rate_are_the_rate(bound: float, needs: list[float]) -> None:
    shares = [rate_share(bound, need, sum(needs) - need, len(needs) - 1) for need in needs]
    assert sum(shares) == pytest.approx(bound, rel=1e-6, abs=1e-6)


@given(bound=RATES, needs=NEEDS)
def test_callers_are_refused_alike_at_every_gateway(bound: float, needs: list[float]) -> None:
    """Where there is enough, whoever asks gets it; where there is not, each gets the same part of what it asks for."""
    total = sum(needs)
    for need in needs:
        share = rate_share(bound, need, total - need, len(needs) - 1)
        if total <= bound:
            assert share >= need * (1 - 1e-9) - 1e-9
        elif len(needs) > 1:
            assert share == pytest.approx(need * bound / total, rel=1e-6, abs=1e-6)


@given(
    bound=st.integers(min_value=0, max_value=1000),
    holds=st.lists(st.integers(min_value=0, max_value=500), min_size=2, max_size=8),
)
def test_a_gateway_never_takes_what_others_hold(bound: int, holds: list[int]) -> None:
    mine, *others = holds
    found = places(bound, mine, sum(others), sum(others), len(others))
    assert found <= max(bound - sum(others), 0)
    if sum(others) < bound:
        assert found >= 1, "whoever asks while one is free may have it"


def test_a_gateway_alone_has_all() -> None:
    assert rate_share(50, 0, 0, 0) == 50
    assert places(50, 0, 0, 0, 0) == 50
