"""What tallies stand at, as OpenTelemetry's SDK hands metrics to its exporters. `exposition` has the same for Prometheus.

Imported where metrics are sent over OTLP, and only there (`environment`). Names, units and attributes are the tallies' own; a collector
that hands them on to Prometheus makes those of the page of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from rowcall.telemetry.tallies import Counter, Distribution, Gauge, Histogram, Labels, Tally

_SCOPE: Final = InstrumentationScope("rowcall")
_SINCE_THE_START: Final = sdk.AggregationTemporality.CUMULATIVE
_UNKNOWN: Final[Any] = None
"""The least and the greatest value of a histogram, which nobody keeps: it is left out of what is sent."""


def metrics_data(tallies: Iterable[Tally], *, resource: Resource, started: int, now: int) -> sdk.MetricsData:
    """All of which there is something.

    Args:
        tallies: What is told of.
        resource: Who this process is.
        started: Since when it counts, in nanoseconds of Unix time.
        now: What time it is, likewise.
    """
    metrics = [
        sdk.Metric(tally.name, tally.description, tally.unit, data)
        for tally in tallies
        if (data := _data(tally, started, now)) is not None
    ]
    return sdk.MetricsData([sdk.ResourceMetrics(resource, [sdk.ScopeMetrics(_SCOPE, metrics, "")], "")])


def _data(tally: Tally, started: int, now: int) -> sdk.DataT | None:
    if isinstance(tally, Histogram):
        found = [_distribution(tally, labels, each, started, now) for labels, each in tally.distributions().items()]
        return sdk.Histogram(found, _SINCE_THE_START) if found else None
    if not isinstance(tally, Counter | Gauge):
        return None
    points = list(_numbers(tally, started, now))
    if not points:
        return None
    return sdk.Gauge(points) if isinstance(tally, Gauge) else sdk.Sum(points, _SINCE_THE_START, is_monotonic=True)


def _numbers(tally: Counter | Gauge, started: int, now: int) -> Iterator[sdk.NumberDataPoint]:
    for labels, value in tally.values().items():
        yield sdk.NumberDataPoint(_attributes(tally, labels), started, now, value)


def _distribution(
    tally: Histogram, labels: Labels, found: Distribution, started: int, now: int
) -> sdk.HistogramDataPoint:
    return sdk.HistogramDataPoint(
        _attributes(tally, labels),
        started,
        now,
        count=sum(found.buckets),
        sum=found.total,
        bucket_counts=found.buckets,
        explicit_bounds=tally.bounds,
        min=_UNKNOWN,
        max=_UNKNOWN,
    )


def _attributes(tally: Tally, labels: Labels) -> dict[str, str]:
    return dict(zip(tally.labels, labels, strict=True))
