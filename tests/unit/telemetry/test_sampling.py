"""Which traces are recorded."""

from __future__ import annotations

import random

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from rowcall.telemetry import metrics, tallies
from rowcall.telemetry.sampling import Sampling

ALL_ONES = "f" * 32


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.05, 0.5, 1.0])
def test_whoever_samples_by_the_traces_id_samples_the_same(ratio: float) -> None:
    ours, theirs, drawn = Sampling(ratio), TraceIdRatioBased(ratio), random.Random(7)
    for _ in range(2000):
        number = drawn.getrandbits(128)
        recorded = theirs.should_sample(None, number, "x").decision is Decision.RECORD_AND_SAMPLE
        assert ours.samples(f"{number:032x}", asked=False) is recorded


def test_who_asks_is_taken_so_many_times_a_second_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "_kept", True)
    before, moment = metrics.TRACES_LIMITED.value(), [100.0]
    sampling = Sampling(0, asked=2, now=lambda: moment[0])

    assert [sampling.samples(ALL_ONES, asked=True) for _ in range(4)] == [True, True, False, False]
    moment[0] += 0.5
    assert [sampling.samples(ALL_ONES, asked=True) for _ in range(2)] == [True, False]
    moment[0] += 60
    assert [sampling.samples(ALL_ONES, asked=True) for _ in range(3)] == [True, True, False]
    assert metrics.TRACES_LIMITED.value() - before == 4


def test_those_that_are_sampled_anyway_take_nothing_of_it() -> None:
    sampling = Sampling(0.5, asked=1, now=lambda: 0.0)
    assert all(sampling.samples("0" * 31 + "1", asked=True) for _ in range(5))
    assert sampling.samples(ALL_ONES, asked=True)
    assert not sampling.samples(ALL_ONES, asked=True)


def test_none_is_taken_where_none_may_ask() -> None:
    assert not Sampling(0, asked=0).samples(ALL_ONES, asked=True)
