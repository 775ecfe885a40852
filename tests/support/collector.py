"""What OTLP exporters send to: a server of OpenTelemetry's collector services, which keeps what it receives."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_EXPORT_SPANS = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_ONWARD_SECONDS = 10.0

Value = str | int | float | bool


class Received(NamedTuple):
    """A span, as it came."""

    service: str
    scope: str
    span: Span

    @property
    def attributes(self) -> Mapping[str, Value]:
        """Its attributes."""
        return {each.key: _value(each) for each in self.span.attributes}

    @property
    def trace_id(self) -> str:
        """Hex digits."""
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        """Hex digits."""
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        """Hex digits; empty: it has none."""
        return self.span.parent_span_id.hex()


class ReceivedMetrics(NamedTuple):
    """A batch of metrics, as it came."""

    whose: Mapping[str, str]
    """Attributes of the resource."""
    metrics: Mapping[str, Metric]
    """By name."""


def received(request: bytes) -> list[Received]:
    """The spans of what an exporter sends: a serialised ExportTraceServiceRequest."""
    found: list[Received] = []
    for resource in ExportTraceServiceRequest.FromString(request).resource_spans:
        [service] = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
        for scope in resource.scope_spans:
            found += [Received(service, scope.scope.name, span) for span in scope.spans]
    return found


class Collector(grpc.GenericRpcHandler):
    """Receives spans, metrics and log records, on a port of its own."""

    def __init__(self, onward: str | None = None, *, keeps: bool = True) -> None:
        """
        Args:
            onward: Host and port of somebody else who gets what exporters send of spans, as it came, and whose answers they get.
            keeps: Whether it keeps spans; not to, and not to read them, is all that it costs whoever measures something else.
        """
        self._keeps = keeps
        self.spans: list[Received] = []
        self.records: list[tuple[str, dict[str, str]]] = []
        """Log records: event name, and the attributes that are text."""
        self.metrics: list[ReceivedMetrics] = []
        self.refused = 0
        """Spans that the other one did not take."""
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[self], options=(("grpc.so_reuseport", 0),))
        self.address = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._channel = None if onward is None else grpc.insecure_channel(onward)
        self._server.start()

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment of a service that is to send its spans here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.address,
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def chains(self) -> set[tuple[str, ...]]:
        """The spans that nothing is below, each with all that is above it in its trace, from the top: "service: name"."""
        by_id = {(each.trace_id, each.span_id): each for each in self.spans}

        def chain(each: Received) -> tuple[str, ...]:
            above = by_id.get((each.trace_id, each.parent_id))
            return (*(() if above is None else chain(above)), f"{each.service}: {each.span.name}")

        parents = {(each.trace_id, each.parent_id) for each in self.spans}
        return {chain(each) for name, each in by_id.items() if name not in parents}

    def stop(self) -> None:
        """Receives no more."""
        self._server.stop(0).wait()
        if self._channel is not None:
            self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """See grpc.GenericRpcHandler."""
        if handler_call_details.method == "/opentelemetry.proto.collector.logs.v1.LogsService/Export":
            return grpc.unary_unary_rpc_method_handler(self._export_logs)
        if handler_call_details.method == "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export":
            return grpc.unary_unary_rpc_method_handler(self._export_metrics)
        assert handler_call_details.method == _EXPORT_SPANS
        return grpc.unary_unary_rpc_method_handler(self._export_spans)

    def _export_spans(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        if self._keeps:
            self.spans += received(request)
        if self._channel is None:
            return ExportTraceServiceResponse().SerializeToString()
        export: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_EXPORT_SPANS)
        answer = export(request, timeout=_ONWARD_SECONDS, wait_for_ready=True)
        self.refused += ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans
        return answer

    def _export_metrics(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        for resource in ExportMetricsServiceRequest.FromString(request).resource_metrics:
            whose = {each.key: each.value.string_value for each in resource.resource.attributes}
            found = {each.name: each for scope in resource.scope_metrics for each in scope.metrics}
            self.metrics.append(ReceivedMetrics(whose, found))
        return ExportMetricsServiceResponse().SerializeToString()

    def _export_logs(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        for resource in ExportLogsServiceRequest.FromString(request).resource_logs:
            for scope in resource.scope_logs:
                self.records += [
                    (each.event_name, {said.key: said.value.string_value for said in each.attributes})
                    for each in scope.log_records
                ]
        return ExportLogsServiceResponse().SerializeToString()


def _value(each: KeyValue) -> Value:
    kind = each.value.WhichOneof("value")
    assert kind is not None
    value: Value = getattr(each.value, kind)
    return value
