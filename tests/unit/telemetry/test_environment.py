"""What OpenTelemetry's variables ask for, and what of it is refused."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rowcall.telemetry.environment import (
    metrics_push_from_environment,
    resource,
    sampling_from_environment,
    spans_from_environment,
)
from rowcall.telemetry.spans import Spans

OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
LOW, HIGH = "0" * 31 + "1", "f" * 32
"""Trace ids: one that is sampled whatever the part, but for none; one that is only where all are."""


def pushes(environment: dict[str, str]) -> bool:
    """Whether metrics are sent."""
    return metrics_push_from_environment("rowcall-x", version="1", environment=environment) is not None


def spans(environment: dict[str, str], **also: InMemorySpanExporter) -> Spans | None:
    made = spans_from_environment("rowcall-x", version="1", environment=environment, also=also)
    if made is not None:
        made.shutdown()
    return made


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**OTLP, "OTEL_SDK_DISABLED": "true"},
        {**OTLP, "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_there_are_no_spans_unless_they_are_asked_for(environment: dict[str, str]) -> None:
    assert spans(environment) is None


@pytest.mark.parametrize("environment", [OTLP, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}])
def test_there_are_where_an_endpoint_is_named(environment: dict[str, str]) -> None:
    assert spans(environment) is not None


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, False),
        ({**OTLP, "OTEL_METRICS_EXPORTER": "none"}, False),
        ({**OTLP, "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, False),
        (OTLP, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({**OTLP, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "CUMULATIVE"}, True),
        # As Compose makes them of what is not set.
        ({**OTLP, "OTEL_METRICS_EXPORTER": "", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": ""}, True),
        ({**OTLP, "OTEL_EXPORTER_OTLP_TIMEOUT": "", "OTEL_EXPORTER_OTLP_COMPRESSION": ""}, True),
    ],
)
def test_metrics_are_sent_where_an_endpoint_is_named(environment: dict[str, str], *, wanted: bool) -> None:
    assert pushes(environment) is wanted


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        (
            {"OTEL_METRICS_EXPORTER": "prometheus"},
            "OTEL_METRICS_EXPORTER is 'prometheus'; this process has otlp and none",
        ),
        ({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL is 'http/json'"),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"},
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE is 'delta'; this process has cumulative only",
        ),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"},
            "this process has explicit_bucket_histogram only",
        ),
        ({"OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "br"}, "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION is 'br'"),
        (
            {"OTEL_EXPORTER_OTLP_TIMEOUT": "-1"},
            "OTEL_EXPORTER_OTLP_TIMEOUT is '-1'; it is a number of seconds above 0, and 2147483647 at most",
        ),
        (
            {"OTEL_METRIC_EXPORT_TIMEOUT": "soon"},
            "OTEL_METRIC_EXPORT_TIMEOUT is 'soon'; it is a whole number from 1 to 2147483647",
        ),
        (
            {"OTEL_METRIC_EXPORT_INTERVAL": "1m"},
            "OTEL_METRIC_EXPORT_INTERVAL is '1m'; it is a whole number from 1 to 2147483647",
        ),
    ],
)
def test_metrics_that_this_process_cannot_send_are_refused(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        pushes({**OTLP, **environment})


def test_another_exporter_is_enough_unless_all_is_switched_off() -> None:
    assert spans({}, activity=InMemorySpanExporter()) is not None
    assert spans({"OTEL_TRACES_EXPORTER": "none"}, activity=InMemorySpanExporter()) is not None
    assert spans({"OTEL_SDK_DISABLED": "true"}, activity=InMemorySpanExporter()) is None


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'; this process has otlp and none"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "many"},
            "OTEL_BSP_MAX_QUEUE_SIZE is 'many'; it is a whole number from 1 to 2147483647",
        ),
        ({"OTEL_BSP_SCHEDULE_DELAY": "0"}, "OTEL_BSP_SCHEDULE_DELAY"),
        (
            {"OTEL_BSP_SCHEDULE_DELAY": str(2**63 - 1)},
            "OTEL_BSP_SCHEDULE_DELAY is '9223372036854775807'; it is a whole",
        ),
        ({"OTEL_BSP_SCHEDULE_DELAY": "9" * 5000}, "OTEL_BSP_SCHEDULE_DELAY is '9+; it is a whole number from 1 to"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "OTEL_EXPORTER_OTLP_COMPRESSION is 'zstd'; this process has gzip"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "soon"},
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT is 'soon'; it is a number of",
        ),
    ],
)
def test_what_this_process_cannot_export_is_refused(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        spans({**OTLP, **environment})


@pytest.mark.parametrize(
    ("sampler", "argument", "low", "high", "asked"),
    [
        # By default a part of all, and whoever asks.
        ("", "", True, False, True),
        ("", "0", False, False, True),
        ("", "1", True, True, True),
        ("always_on", "", True, True, True),
        ("always_off", "", False, False, False),
        ("traceidratio", "0.5", True, False, False),
        ("traceidratio", "", True, True, True),
        ("parentbased_always_on", "", False, False, True),
        ("parentbased_always_off", "", False, False, True),
        ("parentbased_traceidratio", "0.5", False, False, True),
    ],
)
def test_the_sampler_is_as_it_is_named(sampler: str, argument: str, low: bool, high: bool, asked: bool) -> None:
    sampling = sampling_from_environment(9, {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument})

    assert sampling.samples(LOW, asked=False) is low
    assert sampling.samples(HIGH, asked=False) is high
    assert sampling.samples(HIGH, asked=True) is asked


@pytest.mark.parametrize(
    ("sampler", "low", "high"),
    [
        ("parentbased_always_on", True, True),
        ("parentbased_always_off", False, False),
        ("parentbased_traceidratio", True, False),
    ],
)
def test_by_the_parent_what_begins_here_is_as_the_rest_says(sampler: str, low: bool, high: bool) -> None:
    sampling = sampling_from_environment(9, {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0.5"})

    assert sampling.samples(LOW, asked=False, root=True) is low
    assert sampling.samples(HIGH, asked=False, root=True) is high


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        (
            {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
            "OTEL_TRACES_SAMPLER is 'jaeger_remote'; this process has always_on, ",
        ),
        ({"OTEL_TRACES_SAMPLER_ARG": "5%"}, "OTEL_TRACES_SAMPLER_ARG is '5%'; it is the part"),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan"}, "OTEL_TRACES_SAMPLER_ARG"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG"),
    ],
)
def test_a_sampler_that_there_is_not_is_refused(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sampling_from_environment(9, environment)


def test_who_a_process_is_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    ours = resource("rowcall-worker", {}, version="7").attributes
    assert (ours["service.name"], ours["service.version"]) == ("rowcall-worker", "7")
    assert resource("rowcall-worker", {"OTEL_SERVICE_NAME": "shop"}).attributes["service.name"] == "shop"
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs,service.version=8,deployment.environment.name=e"
    )
    theirs = resource("rowcall-worker", {}, version="7").attributes
    assert (theirs["service.name"], theirs["service.version"]) == ("theirs", "8")
