"""What is counted, and what of it is kept: exactly, and never more than there is room for."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import pytest

from rowcall.telemetry import metrics, tallies
from rowcall.telemetry.tallies import OTHER, Counter, Gauge, Histogram, Labels, all_of, watch_all


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is kept, as in a process with an operations port."""
    monkeypatch.setattr(tallies, "_kept", True)


def test_nothing_is_kept_until_somebody_can_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "_kept", False)
    counter, histogram = Counter("a", "Things."), Histogram("b", "Things.")

    def count() -> None:
        counter.add(1)
        histogram.record(1)

    count()
    assert (counter.values(), histogram.distributions()) == ({}, {})
    tallies.keep()
    count()
    assert (counter.value(), histogram.count()) == (1, 1)


def test_a_counter_adds_up_by_labels() -> None:
    counter = Counter("a.b", "Things.", ("kind",))
    counter.add(1, "x")
    counter.add(2.5, "x")
    counter.add(1, "y")
    assert counter.values() == {("x",): 3.5, ("y",): 1}
    assert (counter.value("x"), counter.value("z")) == (3.5, 0)


@pytest.mark.parametrize(("value", "place"), [(0.0, 0), (1.0, 0), (1.1, 1), (2.0, 1), (2.1, 2)])
def test_a_value_lies_in_the_bucket_whose_bound_it_does_not_exceed(value: float, place: int) -> None:
    histogram = Histogram("a.b", "Things.", bounds=(1.0, 2.0))
    histogram.record(value)
    [(labels, found)] = histogram.distributions().items()
    assert labels == ()
    assert found.buckets == [int(each == place) for each in range(3)]
    assert found.total == value
    assert histogram.count() == 1


def test_what_was_read_is_not_changed_by_what_comes() -> None:
    histogram, counter = Histogram("a", "Things."), Counter("b", "Things.")
    histogram.record(1)
    counter.add(1)
    read, values = histogram.distributions(), counter.values()
    histogram.record(1)
    counter.add(1)
    assert (sum(read[()].buckets), read[()].total, values) == (1, 1, {(): 1})


@pytest.mark.parametrize("kind", [Counter, Histogram])
def test_beyond_so_many_kinds_all_others_are_one(
    kind: type[Counter | Histogram], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label that somebody chooses freely after all must not grow for ever."""
    monkeypatch.setattr(tallies, "KINDS", 3)
    tally = kind("a.b", "Things.", ("one", "other"))
    for number in range(10):
        take = tally.add if isinstance(tally, Counter) else tally.record
        take(1, str(number), "x")
    found = tally.values() if isinstance(tally, Counter) else tally.distributions()
    assert set(found) == {("0", "x"), ("1", "x"), ("2", "x"), (OTHER, OTHER)}
    of_others = found[OTHER, OTHER]
    assert (of_others if isinstance(of_others, float | int) else sum(of_others.buckets)) == 7


class Standing:
    """What says what a gauge stands at."""

    def __init__(self, values: Mapping[Labels, float]) -> None:
        self._values = values

    def read(self) -> Mapping[Labels, float]:
        return self._values


def test_a_gauge_asks_whoever_watches_until_they_leave() -> None:
    seen, own = Gauge("seen", "What all see.", ("a",)), Gauge("own", "What each has.", ("a",), combine=operator.add)
    readings = [Standing({("x",): 1.0}), Standing({("x",): 3.0, ("y",): 2.0})]
    leaving = [watch_all(((seen, each.read), (own, each.read))) for each in readings]
    assert seen.values() == {("x",): 3.0, ("y",): 2.0}
    assert own.values() == {("x",): 4.0, ("y",): 2.0}
    leaving[1]()
    leaving[1]()
    assert seen.values() == own.values() == {("x",): 1.0}


def test_every_metric_has_a_name_of_its_own_and_says_what_it_is() -> None:
    found = list(all_of(vars(metrics)))
    assert len({tally.name for tally in found}) == len(found) > 20
    assert all(tally.description.endswith(".") for tally in found)
    assert not [tally.name for tally in found if "tenant" in tally.labels]
