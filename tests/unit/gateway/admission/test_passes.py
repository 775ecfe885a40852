"""A pass lets in what the meters would, one after another, whatever the bounds and the calls are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rowcall.bounds import Bound, Target
from rowcall.queue.model import QueueLoad
from rowcall_gateway.admission.meters import Meter
from rowcall_gateway.admission.passes import Pass

QUEUE = Target("", "documents")
NOW = 1000.0

counts = st.none() | st.integers(0, 4)
measures = st.fixed_dictionaries(
    {
        "rate": st.none() | st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0]),
        "in_flight": counts,
        "waiters": counts,
        "backlog": counts,
        "oldest_age": st.none() | st.just(timedelta(seconds=5)),
    }
)
loads = st.none() | st.builds(
    QueueLoad, st.integers(0, 3), st.none() | st.sampled_from([timedelta(seconds=1), timedelta(seconds=9)])
)


def meters(bounds: list[dict[str, Any]], looked: list[QueueLoad | None]) -> list[Meter]:
    made = []
    for number, (each, load) in enumerate(zip(bounds, looked, strict=True)):
        bound = Bound(QUEUE, **each, number=number, updated_at=datetime.now(UTC), actor=None, note=None)
        meter = Meter(bound, QUEUE, NOW)
        meter.loaded(load)
        made.append(meter)
    return made


@given(
    bounds=st.lists(measures, min_size=1, max_size=3),
    looked=st.lists(loads, min_size=3, max_size=3),
    steps=st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.7, 2.0]), st.booleans()), max_size=30),
    waits=st.booleans(),
)
def test_it_lets_in_what_its_meters_do(
    bounds: list[dict[str, Any]], looked: list[QueueLoad | None], steps: list[tuple[float, bool]], waits: bool
) -> None:
    quick, slow = meters(bounds, looked[: len(bounds)]), meters(bounds, looked[: len(bounds)])
    found = Pass(quick, waits=waits)
    now, inside = NOW, 0
    for pause, ends in steps:
        now += pause
        for meter in slow:
            # As each second, so that no share lapses: that is looked at beside calls, not at each.
            meter.lease(meter.need(now), meter._others, now)
        for meter in quick:
            meter.lease(meter.need(now), meter._others, now)
        if ends and inside:
            inside -= 1
            with found:
                pass
            for meter in slow:
                meter.give(waits=waits)
        expected = all(meter.refuses(now, 1, waits=waits) is None for meter in slow)
        if expected:
            for meter in slow:
                meter.take(now, 1, waits=waits)
        assert found.enter(now) is expected
        inside += expected
        assert [(meter.in_flight, meter.waiters) for meter in quick] == [
            (meter.in_flight, meter.waiters) for meter in slow
        ]
