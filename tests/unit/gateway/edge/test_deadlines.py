"""How long a call may wait so that its answer still reaches the caller."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcall_gateway.edge.deadlines import Budget, margin

SECONDS = st.floats(min_value=0, max_value=1e6)


@given(SECONDS)
def test_the_margin_is_between_100_and_500_ms_and_half_of_what_is_short(remaining: float) -> None:
    kept = margin(remaining)
    if remaining < 0.2:
        assert kept == remaining / 2
    else:
        assert 0.1 <= kept <= 0.5
        assert kept <= remaining / 2


@pytest.mark.parametrize("remaining", [3.0, 5.0, 7.0])
def test_the_margin_is_a_twentieth_and_its_jitter(remaining: float) -> None:
    found = {margin(remaining) for _ in range(200)}
    assert 0.05 * remaining <= min(found) < max(found) <= 0.0625 * remaining
    assert len(found) > 100, "calls with one deadline must not all end at one time"


@given(
    now=st.floats(min_value=0, max_value=1e6),
    remaining=st.none() | SECONDS,
    longest=st.floats(min_value=0.001, max_value=3600),
    wait=st.none() | st.floats(min_value=0, max_value=3600),
)
def test_a_call_waits_no_longer_than_any_of_its_bounds(
    now: float, remaining: float | None, longest: float, wait: float | None
) -> None:
    budget = Budget.of(
        now,
        remaining,
        max_call_wait=timedelta(seconds=longest),
        wait=None if wait is None else timedelta(seconds=wait),
    )
    slack = 1e-5
    assert budget.wait_until <= now + longest + slack
    if wait is not None:
        assert budget.wait_until <= now + wait + slack
    if remaining is None:
        assert budget.submit_until is None
        assert not budget.at_deadline
    else:
        assert budget.submit_until is not None
        assert budget.wait_until <= budget.submit_until <= now + remaining
        assert budget.submit_until + budget.margin == pytest.approx(now + remaining)
        assert budget.at_deadline == (budget.wait_until == budget.submit_until)
