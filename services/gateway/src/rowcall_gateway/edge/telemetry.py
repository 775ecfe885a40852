"""Spans of the gateway's RPCs: whether there are any, where they go, and how each ends.

The environment decides, by OpenTelemetry's own variables: spans are made and exported over OTLP when
OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) is set, and not at all otherwise. The spans themselves are made by
opentelemetry-instrumentation-grpc; the interceptor sets their status, which the instrumentation leaves unset.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

import grpc
import grpc.aio
from opentelemetry import trace

from rowcall.errors import reason_name
from rowcall.tracing import TraceContext
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge import otlp

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

STATUS_CODE: Final = "rpc.grpc.status_code"
"""The number of the RPC's code."""

REASON: Final = "rowcall.reason"
"""ErrorInfo.reason, where the RPC was not answered."""

# What OpenTelemetry's conventions count as a server's failure; the other codes are its callers'.
_SERVER_ERRORS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_STILL_RUNNING: Final = reason_name(ErrorReason.ERROR_REASON_STILL_RUNNING)


def provider_from_environment(environment: Mapping[str, str] = os.environ) -> TracerProvider | None:
    """What makes the spans that the environment asks for; None if it asks for none.

    Sampler, resource attributes, headers and batch sizes are the SDK's to read.

    Raises:
        ValueError: The environment asks for something that this process does not have.
    """
    if not otlp.is_wanted("TRACES", "spans", environment):
        return None
    # A good part of a gateway's start, where nobody has asked for spans.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=otlp.resource(environment), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def span_interceptor(provider: trace.TracerProvider) -> grpc.aio.ServerInterceptor:
    """OpenTelemetry's interceptor for grpc.aio servers."""
    from opentelemetry.instrumentation.grpc import aio_server_interceptor

    made = aio_server_interceptor(tracer_provider=provider)  # type: ignore[no-untyped-call]
    return cast("grpc.aio.ServerInterceptor", made)


def position() -> TraceContext | None:
    """Where the RPC's span is in its trace; None if there is no span."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return TraceContext.parse(
        f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}", span.trace_state.to_header() or None
    )


def end(code: grpc.StatusCode, reason: str | None) -> None:
    """Puts the RPC's end into its span. A call whose job goes on is no error."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attribute(STATUS_CODE, code.value[0])
    if reason:
        span.set_attribute(REASON, reason)
    if code in _SERVER_ERRORS and reason != _STILL_RUNNING:
        span.set_status(trace.Status(trace.StatusCode.ERROR, reason or code.name))
