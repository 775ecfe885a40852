"""What Prometheus reads, read by its own parser."""

from __future__ import annotations

import operator

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from rowcall.telemetry import metrics, tallies
from rowcall.telemetry.exposition import exposition, prometheus_name
from rowcall.telemetry.process import process_tallies
from rowcall.telemetry.tallies import Counter, Gauge, Histogram, Tally, all_of

AWKWARD = 'a "quoted"\\ name,\nof two lines {}= é'


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is kept, as in a process with an operations port."""
    monkeypatch.setattr(tallies, "_kept", True)


def read(*tallies: Tally) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(exposition(tallies))}


def test_a_counter_is_read_as_it_was_counted() -> None:
    counter = Counter("rowcall.some.things", f"Some {AWKWARD}.", ("rpc.method", "kind"), unit="{thing}")
    counter.add(3, "a.B/C", AWKWARD)
    counter.add(0.25, "", "x")
    [family] = read(counter).values()
    assert (family.name, family.type) == ("rowcall_some_things", "counter")
    assert [(each.name, each.labels, each.value) for each in family.samples] == [
        ("rowcall_some_things_total", {"rpc_method": "a.B/C", "kind": AWKWARD}, 3),
        ("rowcall_some_things_total", {"rpc_method": "", "kind": "x"}, 0.25),
    ]


def test_a_histogram_is_read_with_cumulative_buckets() -> None:
    histogram = Histogram("rpc.server.call.duration", "Times.", ("code",), unit="s", bounds=(0.5, 1.0))
    for value in (0.1, 0.5, 0.7, 30):
        histogram.record(value, "OK")
    [family] = read(histogram).values()
    assert (family.name, family.type) == ("rpc_server_call_duration_seconds", "histogram")
    found = {(each.name.removeprefix(family.name), each.labels.get("le")): each.value for each in family.samples}
    assert found == {
        ("_bucket", "0.5"): 2,
        ("_bucket", "1"): 3,
        ("_bucket", "+Inf"): 4,
        ("_sum", None): 31.3,
        ("_count", None): 4,
    }


def test_a_gauge_without_labels_and_one_that_nobody_knows() -> None:
    gauge, unknown = Gauge("some.depth", "Deep.", combine=operator.add), Gauge("other.depth", "Deep.", unit="By")
    gauge.watch(lambda: {(): -1.5})
    gauge.watch(lambda: {(): float("inf")})
    found = read(gauge, unknown)
    assert [each.value for each in found["some_depth"].samples] == [float("inf")]
    assert found["other_depth_bytes"].samples == []


def test_everything_that_there_is_can_be_read_under_its_name() -> None:
    tallies = [*all_of(vars(metrics)), *process_tallies()]
    found = read(*tallies)
    assert set(found) == {prometheus_name(tally).removesuffix("_total") for tally in tallies}
    names = {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"}
    assert {name for name in names if found[name].samples} == names
    assert found["process_cpu_seconds"].samples[0].name == "process_cpu_seconds_total"
