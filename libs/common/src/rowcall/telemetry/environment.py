"""What OpenTelemetry's own variables ask of a process: whether spans, metrics and logs are sent over OTLP, which traces are sampled, and who it
says that it is. Called by the programs, and by the gateway's export of the audit's heads.

What makes and sends spans and metrics (`spans`, `push`, and OpenTelemetry's SDK below them) is a good part of a service's start: it is loaded
where somebody asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from rowcall.telemetry.sampling import DEFAULT_RATIO, Sampling

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

    from rowcall.telemetry.push import MetricsPush
    from rowcall.telemetry.spans import Spans

_OTLP: Final = "OTEL_EXPORTER_OTLP"
"""What the variables of exporters over OTLP begin with."""

OTLP: Final = "spans"
"""What of spans for OTLP is counted by, where it is dropped (rowcall.telemetry.dropped)."""

EXPORT_EVERY_MS: Final = 60_000
EXPORT_WITHIN_MS: Final = 30_000
SEND_SECONDS: Final = 10.0
"""As the SDK has them, where OTEL_METRIC_EXPORT_INTERVAL, OTEL_METRIC_EXPORT_TIMEOUT and OTEL_EXPORTER_OTLP_TIMEOUT say nothing."""

_COMPRESSIONS: Final = ("gzip",)
"""What the SDK's exporters know by OTEL_EXPORTER_OTLP_COMPRESSION."""

MOST: Final = 2**31 - 1
"""Of spans, milliseconds and seconds, whatever is asked for. A thread cannot wait for as long as some say for never."""

_SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)


def spans_from_environment(
    service: str,
    *,
    version: str,
    environment: Mapping[str, str] = os.environ,
    also: Mapping[str, SpanExporter] | None = None,
) -> Spans | None:
    """What a process tells its spans to; None: nobody wants any, and none is made.

    Args:
        service: The program, "rowcall-gateway", where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES do not say otherwise.
        version: Its own, where they do not.
        environment: Where OpenTelemetry's variables are. Endpoint, headers, time-outs and certificates of OTLP are the SDK's to read.
        also: Exporters beside OTLP, by what their spans are counted by where they are dropped.

    Raises:
        ValueError: The environment asks for something that this process does not have; the message names the variable.
    """
    exporters: dict[str, SpanExporter] = {}
    if is_wanted("TRACES", "spans", environment):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporters[OTLP] = OTLPSpanExporter()
    if not _disabled(environment):
        exporters |= also or {}
    if not exporters:
        return None
    from rowcall.telemetry.spans import BATCH, DELAY_MS, WAITING, Limits, Spans

    limits = Limits(
        waiting=_whole("OTEL_BSP_MAX_QUEUE_SIZE", environment, WAITING),
        batch=_whole("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", environment, BATCH),
        delay=_whole("OTEL_BSP_SCHEDULE_DELAY", environment, DELAY_MS) / 1000,
    )
    return Spans(exporters, resource=resource(service, environment, version=version), limits=limits)


def metrics_push_from_environment(
    service: str, *, version: str, environment: Mapping[str, str] = os.environ
) -> MetricsPush | None:
    """What sends a process's metrics; None: nobody wants any over OTLP.

    Args:
        service: The program, as in `spans_from_environment`.
        version: Its own, likewise.
        environment: Where OpenTelemetry's variables are. Endpoint, headers, time-outs and certificates of OTLP are the SDK's to read.

    Raises:
        ValueError: The environment asks for something that this process does not have; the message names the variable.
    """
    if not is_wanted("METRICS", "metrics", environment):
        return None
    for name, ours in (
        ("TEMPORALITY_PREFERENCE", "cumulative"),
        ("DEFAULT_HISTOGRAM_AGGREGATION", "explicit_bucket_histogram"),
    ):
        asked = environment.get(f"{_OTLP}_METRICS_{name}") or ours
        if asked.lower() != ours:
            raise ValueError(f"{_OTLP}_METRICS_{name} is {asked!r}; this process has {ours} only")
    every = _whole("OTEL_METRIC_EXPORT_INTERVAL", environment, EXPORT_EVERY_MS) / 1000
    within = _whole("OTEL_METRIC_EXPORT_TIMEOUT", environment, EXPORT_WITHIN_MS) / 1000
    sent = _seconds(f"{_OTLP}_METRICS_TIMEOUT", environment, _seconds(f"{_OTLP}_TIMEOUT", environment, SEND_SECONDS))
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    from rowcall.telemetry.push import MetricsPush

    exporter = OTLPMetricExporter(timeout=min(within, sent))
    return MetricsPush(exporter, resource=resource(service, environment, version=version), every=every)


def sampling_from_environment(asked: float, environment: Mapping[str, str] = os.environ) -> Sampling:
    """Which traces this process samples, by OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG.

    Args:
        asked: How many a second are sampled because their callers ask for it.
        environment: Where the variables are.

    Raises:
        ValueError: They say something that this process does not have; the message names the variable.
    """
    sampler = environment.get("OTEL_TRACES_SAMPLER", "")
    if sampler and sampler not in _SAMPLERS:
        raise ValueError(f"OTEL_TRACES_SAMPLER is {sampler!r}; this process has {', '.join(_SAMPLERS)}")
    by_parent = sampler.startswith("parentbased_")
    kind = sampler.removeprefix("parentbased_")
    ratio = {"always_on": 1.0, "always_off": 0.0}.get(kind)
    if ratio is None:
        # As the SDK has it, a sampler by ratio without one takes all.
        ratio = _ratio(environment, 1.0 if kind else DEFAULT_RATIO)
    return Sampling(ratio, asked=asked if by_parent or not sampler else None, by_parent=by_parent)


def is_wanted(signal: Literal["TRACES", "METRICS", "LOGS"], what: str, environment: Mapping[str, str]) -> bool:
    """Whether a signal is asked for over OTLP, by OpenTelemetry's own variables.

    Args:
        signal: As those name it.
        what: This process sends by it, for the error.
        environment: Where they are.

    Raises:
        ValueError: The environment asks for something that this process does not have.
    """
    if _disabled(environment):
        return False
    own, shared = f"{_OTLP}_{signal}", _OTLP
    _forget_empty(environment)
    exporter = environment.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    if exporter == "none" or not any(environment.get(f"{name}_ENDPOINT") for name in (own, shared)):
        return False
    if exporter != "otlp":
        raise ValueError(f"OTEL_{signal}_EXPORTER is {exporter!r}; this process has otlp and none")
    name = next((name for name in (f"{own}_PROTOCOL", f"{shared}_PROTOCOL") if environment.get(name)), None)
    if name is not None and environment[name] != "grpc":
        raise ValueError(f"{name} is {environment[name]!r}; this process exports {what} over grpc only")
    for name in (f"{own}_COMPRESSION", f"{shared}_COMPRESSION"):
        if environment.get(name, "").lower().strip() not in ("", *_COMPRESSIONS):
            raise ValueError(f"{name} is {environment[name]!r}; this process has {', '.join(_COMPRESSIONS)}")
    for name in (f"{own}_TIMEOUT", f"{shared}_TIMEOUT"):
        _seconds(name, environment, SEND_SECONDS)
    return True


def resource(service: str, environment: Mapping[str, str], *, version: str | None = None) -> Resource:
    """Who this process is to whoever receives it; attributes are the SDK's to read.

    Args:
        service: The program's name, where the environment says none.
        environment: Where OpenTelemetry's variables are.
        version: The program's own, where they say none; None: it is not told.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource

    named = environment.get("OTEL_SERVICE_NAME")
    found = Resource.create({SERVICE_NAME: named} if named else {})
    ours = {} if version is None or SERVICE_VERSION in found.attributes else {SERVICE_VERSION: version}
    if str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        ours[SERVICE_NAME] = service
    return found.merge(Resource(ours))


def _forget_empty(environment: Mapping[str, str]) -> None:
    """Empty is as good as not set: so OpenTelemetry's specification has it, and Compose makes such values. The SDK takes some of them for wrong."""
    if environment is os.environ:
        for name in [name for name, value in os.environ.items() if name.startswith("OTEL_") and not value]:
            del os.environ[name]


def _disabled(environment: Mapping[str, str]) -> bool:
    return environment.get("OTEL_SDK_DISABLED", "").lower() == "true"


def _ratio(environment: Mapping[str, str], otherwise: float) -> float:
    text = environment.get("OTEL_TRACES_SAMPLER_ARG", "")
    try:
        ratio = float(text) if text else otherwise
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG is {text!r}; it is the part of traces that is sampled, from 0 to 1")
    return ratio


def _seconds(name: str, environment: Mapping[str, str], otherwise: float) -> float:
    text = environment.get(name, "")
    try:
        seconds = float(text) if text else otherwise
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MOST:
        raise ValueError(f"{name} is {text!r}; it is a number of seconds above 0, and {MOST} at most")
    return seconds


def _whole(name: str, environment: Mapping[str, str], otherwise: int) -> int:
    text = environment.get(name, "")
    if not text:
        return otherwise
    # Not read before it is known how long it is: of thousands of digits Python makes no number.
    if not (text.isascii() and text.isdecimal() and len(text.lstrip("0")) <= len(str(MOST)) and 0 < int(text) <= MOST):
        raise ValueError(f"{name} is {text!r:.80}; it is a whole number from 1 to {MOST}")
    return int(text)
