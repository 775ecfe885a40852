"""Counters, histograms and gauges of one process, added up where they arise.

Not OpenTelemetry's instruments: a record of its histograms costs 12 µs, and a worker has 30 to 40 for a job; and what was added up
before cannot be handed to them (docs/adr/0039). Names, units and attributes are OpenTelemetry's all the same.

Nothing is kept until somebody can read it (`keep`): a process without an operations port pays for the question only.
Whatever is counted is counted in the event loop's thread, or under a lock of whoever counts. Nothing here waits, fails or grows
for ever: beyond KINDS combinations of labels all others are counted as one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

KINDS: Final = 2_000
"""Combinations of labels that one tally keeps apart."""

OTHER: Final = "_OTHER"
"""The label of what is not told apart, as OpenTelemetry has it."""

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of buckets for durations: OpenTelemetry's for calls, and further at both ends, for a commit and for a job."""

Labels: TypeAlias = tuple[str, ...]
"""Values, in the order of the tally's labels."""

Reading: TypeAlias = Callable[[], Mapping[Labels, float]]
"""Says what a gauge stands at."""


_kept = False


def keep() -> None:
    """From now on what is counted in this process is kept, for good. Called where it can be read."""
    global _kept  # noqa: PLW0603  figures are the process's
    _kept = True


def are_kept() -> bool:
    """Whether what is counted in this process is kept."""
    return _kept


class Tally:
    """What every kind has."""

    kind: str = ""
    """As Prometheus calls it."""

    def __init__(self, name: str, description: str, labels: Iterable[str] = (), *, unit: str = "") -> None:
        """
        Args:
            name: As OpenTelemetry writes names, "rpc.server.call.duration".
            description: What it is, in a sentence.
            labels: The names of its labels, likewise.
            unit: In UCUM, as OpenTelemetry has it: "s", "By", "{call}"; empty: a number.
        """
        self.name = name
        self.description = description
        self.labels = tuple(labels)
        self.unit = unit


class Counter(Tally):
    """What only grows."""

    kind = "counter"

    def __init__(self, name: str, description: str, labels: Iterable[str] = (), *, unit: str = "") -> None:
        super().__init__(name, description, labels, unit=unit)
        self._sums: dict[Labels, float] = {}

    def add(self, count: float, *labels: str) -> None:
        """Counts so many more under these values of the labels, in their order."""
        if not _kept:
            return
        found = self._sums.get(labels)
        if found is None:
            labels = _told_apart(self._sums, labels)
            found = self._sums.get(labels, 0)
        self._sums[labels] = found + count

    def value(self, *labels: str) -> float:
        """What was counted so far under these values."""
        return self._sums.get(labels, 0)

    def values(self) -> dict[Labels, float]:
        """All that was counted so far."""
        return dict(self._sums)


class Distribution(NamedTuple):
    """What a histogram has of one combination of labels."""

    buckets: list[int]
    """How many lie within each bound and above the one before; the last one: above all."""
    total: float
    """The sum of the values."""


class Histogram(Tally):
    """Values, by size."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str,
        labels: Iterable[str] = (),
        *,
        unit: str = "",
        bounds: tuple[float, ...] = SECONDS,
    ) -> None:
        super().__init__(name, description, labels, unit=unit)
        self.bounds = bounds
        self._buckets: dict[Labels, list[int]] = {}
        self._totals: dict[Labels, float] = {}

    def record(self, value: float, *labels: str) -> None:
        """Takes a value under these values of the labels, in their order."""
        if not _kept:
            return
        buckets = self._buckets.get(labels)
        if buckets is None:
            labels = _told_apart(self._buckets, labels)
            buckets = self._buckets.setdefault(labels, [0] * (len(self.bounds) + 1))
            self._totals.setdefault(labels, 0.0)
        buckets[bisect_left(self.bounds, value)] += 1
        self._totals[labels] += value

    def count(self, *labels: str) -> int:
        """How many values were taken so far under these labels."""
        return sum(self._buckets.get(labels, ()))

    def distributions(self) -> dict[Labels, Distribution]:
        """All that was taken so far."""
        return {labels: Distribution(list(buckets), self._totals[labels]) for labels, buckets in self._buckets.items()}


class Gauge(Tally):
    """What stands at something now: whoever knows it is asked when it is read."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        description: str,
        labels: Iterable[str] = (),
        *,
        unit: str = "",
        combine: Callable[[float, float], float] = max,
    ) -> None:
        """As others; `combine`: of two that say something of the same labels. What all of them see is the same, so the larger;
        what each has for itself is added."""
        super().__init__(name, description, labels, unit=unit)
        self._combine = combine
        self._readings: list[Reading] = []

    def watch(self, reading: Reading) -> Callable[[], None]:
        """Has it ask here too, from now on until what this returns is called. It must neither wait nor raise."""
        self._readings.append(reading)

        def leave() -> None:
            if reading in self._readings:
                self._readings.remove(reading)

        return leave

    def values(self) -> dict[Labels, float]:
        """What it stands at."""
        found: dict[Labels, float] = {}
        for reading in list(self._readings):
            for labels, value in reading().items():
                found[labels] = self._combine(found[labels], value) if labels in found else value
        return found


def _told_apart(known: Mapping[Labels, object], labels: Labels) -> Labels:
    """The labels that something new is counted under."""
    return labels if len(known) < KINDS else (OTHER,) * len(labels)


def watch_all(readings: Iterable[tuple[Gauge, Reading]]) -> Callable[[], None]:
    """As `Gauge.watch`, of several at once."""
    leaving = [gauge.watch(reading) for gauge, reading in readings]

    def leave() -> None:
        for each in leaving:
            each()

    return leave


def all_of(module: Mapping[str, object]) -> Iterator[Tally]:
    """The tallies among what a module has, in its order."""
    return (each for each in module.values() if isinstance(each, Tally))
