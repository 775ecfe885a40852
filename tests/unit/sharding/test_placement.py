"""Where new tenants go: in proportion, the same everywhere, and moving as few as can be when shards change."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rowcall.sharding.placement import place

TENANTS = [f"tenant-{number}" for number in range(4000)]
names = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
weights = st.dictionaries(names, st.floats(min_value=0.01, max_value=100), min_size=1, max_size=8)


def test_it_never_changes() -> None:
    # Another answer would place a tenant on two shards while two releases run side by side.
    given_weights = {"a": 1.0, "b": 1.0, "c": 2.0}
    assert [place(tenant, given_weights) for tenant in ("acme", "globex", "initech", "umbrella", "default")] == [
        "a",
        "b",
        "b",
        "b",
        "c",
    ]


def test_tenants_are_spread_by_weight() -> None:
    counts = Counter(place(tenant, {"a": 1, "b": 2, "c": 5}) for tenant in TENANTS)
    assert abs(counts["a"] / len(TENANTS) - 1 / 8) < 0.02
    assert abs(counts["b"] / len(TENANTS) - 2 / 8) < 0.02
    assert abs(counts["c"] / len(TENANTS) - 5 / 8) < 0.02


@given(tenant=names, weights=weights)
def test_the_order_of_the_settings_does_not_matter(tenant: str, weights: dict[str, float]) -> None:
    assert place(tenant, weights) == place(tenant, dict(reversed(weights.items())))


@given(tenant=names, weights=weights, name=names)
def test_another_shard_draws_tenants_only_to_itself(tenant: str, weights: dict[str, float], name: str) -> None:
    before = place(tenant, weights)
    after = place(tenant, {**weights, name: 100.0})
    assert after in (before, name)


@given(tenant=names, weights=weights)
def test_a_closed_shard_gets_nobody(tenant: str, weights: dict[str, float]) -> None:
    chosen = place(tenant, weights)
    assert chosen is not None
    assert place(tenant, {**weights, chosen: 0}) != chosen


def test_with_every_shard_closed_there_is_no_place() -> None:
    assert place("acme", {"a": 0, "b": 0}) is None
