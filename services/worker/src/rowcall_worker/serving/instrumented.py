"""OpenTelemetry's interceptors for clients of grpc.aio, mended. Imported by `rowcall_worker.telemetry`, when a handler asks for them.

opentelemetry-instrumentation-grpc leaves the span of a call that raises, or is cancelled, without an end, so that it is never exported;
and where no span is recorded it sends no trace along, or one of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.instrumentation.grpc._aio_client import (
    StreamUnaryAioClientInterceptor,
    UnaryUnaryAioClientInterceptor,
)

from rowcall_worker.serving.outgoing import trace_headers

if TYPE_CHECKING:
    _Base = UnaryUnaryAioClientInterceptor
else:
    _Base = object

_CODE = "rpc.grpc.status_code"
"""As the instrumentation calls it, a number."""


class _Mended(_Base):
    """What both of them lack."""

    async def _wrap_unary_response(self, continuation: Callable[[], Awaitable[Any]], span: trace.Span) -> Any:
        try:
            return await super()._wrap_unary_response(continuation, span)  # type: ignore[no-untyped-call]
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                code = grpc.StatusCode.CANCELLED
                span.set_attribute(_CODE, code.value[0])
                span.set_status(trace.Status(trace.StatusCode.ERROR, code.name))
            span.end()
            raise

    @staticmethod
    def propagate_trace_in_details(client_call_details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        made: grpc.aio.ClientCallDetails = UnaryUnaryAioClientInterceptor.propagate_trace_in_details(
            client_call_details
        )
        if made.metadata is not None and not trace.get_current_span().is_recording():
            for name, value in trace_headers().items():
                made.metadata[name] = value
        return made


class _UnaryUnary(_Mended, UnaryUnaryAioClientInterceptor):
    pass


class _StreamUnary(_Mended, StreamUnaryAioClientInterceptor):
    pass


def client_interceptors() -> Sequence[grpc.aio.ClientInterceptor]:
    """See `rowcall_worker.telemetry.client_interceptors`."""
    mended: Mapping[type, Callable[[trace.Tracer], object]] = {
        UnaryUnaryAioClientInterceptor: _UnaryUnary,
        StreamUnaryAioClientInterceptor: _StreamUnary,
    }
    tracer = trace.get_tracer("rowcall.worker")
    found: Sequence[object] = aio_client_interceptors()  # type: ignore[no-untyped-call]
    return [
        cast("grpc.aio.ClientInterceptor", mended[type(each)](tracer) if type(each) in mended else each)
        for each in found
    ]
