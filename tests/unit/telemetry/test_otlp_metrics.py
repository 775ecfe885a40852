"""Tallies as they are sent over OTLP, kind by kind."""

from __future__ import annotations

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.sdk.resources import Resource

from rowcall.telemetry import tallies
from rowcall.telemetry.otlp_metrics import metrics_data
from rowcall.telemetry.process import process_tallies
from rowcall.telemetry.tallies import Counter, Gauge, Histogram, Tally

STARTED, NOW = 1_000, 2_000
"""Nanoseconds."""


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is kept."""
    monkeypatch.setattr(tallies, "_kept", True)


def sent(*told: Tally) -> dict[str, Metric]:
    """What a collector is sent, by name."""
    data = metrics_data(told, resource=Resource({"service.name": "x"}), started=STARTED, now=NOW)
    [resource] = encode_metrics(data).resource_metrics
    assert [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"] == ["x"]
    [scope] = resource.scope_metrics
    assert scope.scope.name == "rowcall"
    return {each.name: each for each in scope.metrics}


def attributes(point: object) -> dict[str, str]:
    return {each.key: each.value.string_value for each in point.attributes}  # type: ignore[attr-defined]


def test_a_counter_is_a_sum_since_the_start() -> None:
    counter = Counter("rowcall.call.errors", "Errors.", ("rpc.method", "code"), unit="{call}")
    counter.add(2, "shop/Quote", "INTERNAL")
    counter.add(1, "shop/Quote", "INTERNAL")
    metric = sent(counter)["rowcall.call.errors"]
    assert (metric.description, metric.unit) == ("Errors.", "{call}")
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    [point] = metric.sum.data_points
    assert attributes(point) == {"rpc.method": "shop/Quote", "code": "INTERNAL"}
    assert (point.as_int or point.as_double) == 3
    assert (point.start_time_unix_nano, point.time_unix_nano) == (STARTED, NOW)


def test_a_histogram_has_its_buckets_and_no_least_or_greatest_value() -> None:
    histogram = Histogram("rpc.server.call.duration", "How long.", ("rpc.method",), unit="s", bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.record(value, "shop/Quote")
    metric = sent(histogram)["rpc.server.call.duration"]
    assert metric.histogram.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    [point] = metric.histogram.data_points
    assert list(point.bucket_counts) == [2, 1, 1]
    assert list(point.explicit_bounds) == [0.1, 1.0]
    assert point.count == 4
    assert point.sum == pytest.approx(7.65)
    assert not point.HasField("min")
    assert not point.HasField("max")


def test_a_gauge_stands_at_what_it_is_asked_for() -> None:
    gauge = Gauge("rowcall.queue.depth", "Waiting.", ("shard", "queue"))
    gauge.watch(lambda: {("a", "probe"): 7.0, ("a", "documents"): 0.0})
    [found] = sent(gauge).values()
    assert {attributes(point)["queue"]: point.as_double for point in found.gauge.data_points} == {
        "probe": 7.0,
        "documents": 0.0,
    }


def test_nothing_is_sent_of_what_there_is_none_of() -> None:
    assert sent(Counter("a", "A."), Histogram("b", "B."), Gauge("c", "C.")) == {}


def test_the_process_is_told_of_too() -> None:
    assert sent(*process_tallies())["process.cpu"].sum.data_points[0].as_double > 0
