"""What OTLP exporters send to: a server of OpenTelemetry's collector services, which keeps what it receives."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

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


class Collector(grpc.GenericRpcHandler):
    """Receives spans and log records, on a port of its own."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.records: list[tuple[str, dict[str, str]]] = []
        """Log records: event name, and the attributes that are text."""
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[self], options=(("grpc.so_reuseport", 0),))
        self.address = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
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

    def stop(self) -> None:
        """Receives no more."""
        self._server.stop(0).wait()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """See grpc.GenericRpcHandler."""
        if handler_call_details.method == "/opentelemetry.proto.collector.logs.v1.LogsService/Export":
            return grpc.unary_unary_rpc_method_handler(self._export_logs)
        assert handler_call_details.method == "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        return grpc.unary_unary_rpc_method_handler(self._export_spans)

    def _export_spans(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        for resource in ExportTraceServiceRequest.FromString(request).resource_spans:
            [service] = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
            for scope in resource.scope_spans:
                self.spans += [Received(service, scope.scope.name, span) for span in scope.spans]
        return ExportTraceServiceResponse().SerializeToString()

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
