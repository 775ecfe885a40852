"""Outcome values in a servicer that is served directly, by `grpc.aio.server` or `grpc.server`: as the status they mean.

What such a handler records of its calls (`rowcall_worker.telemetry`) goes nowhere. Behind the queue nothing of this is needed. Without it a server ends a call whose handler raises one with UNKNOWN, like
one that raises anything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from rowcall.errors import trailers
from rowcall_worker.serving.direct import direct
from rowcall_worker.serving.outcome_values import Cancel, Fail, OutcomeValue, Retry, Snooze

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncOutcomeInterceptor(grpc.aio.ServerInterceptor):
    """For `grpc.aio.server(interceptors=[AsyncOutcomeInterceptor()])`; for `def` handlers on it too."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[_Request, _Response] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Request, _Response] | None:
        """As grpc.aio calls it."""
        return _translated(await continuation(handler_call_details))


class OutcomeInterceptor(grpc.ServerInterceptor):
    """For `grpc.server(…, interceptors=[OutcomeInterceptor()])`."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[_Request, _Response] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Request, _Response] | None:
        """As grpc calls it."""
        return _translated(continuation(handler_call_details))


def _translated(
    handler: grpc.RpcMethodHandler[_Request, _Response] | None,
) -> grpc.RpcMethodHandler[_Request, _Response] | None:
    if handler is None or handler.unary_unary is None:
        return handler
    # gRPC's types know a handler of a thread only, and no context but that one's.
    behaviour = cast("Callable[[_Request, Any], Any]", handler.unary_unary)
    wrapped = _awaited(behaviour) if inspect.iscoroutinefunction(behaviour) else _called(behaviour)
    return grpc.unary_unary_rpc_method_handler(
        cast("Callable[[_Request, grpc.ServicerContext], _Response]", wrapped),
        handler.request_deserializer,
        handler.response_serializer,
    )


def _awaited(behaviour: Callable[[_Request, Any], Any]) -> Callable[[_Request, Any], Any]:
    async def run(request: _Request, context: grpc.aio.ServicerContext[Message, Message]) -> object:
        try:
            with direct():
                return await behaviour(request, context)
        except OutcomeValue as value:
            status = _status(value)
            return await context.abort(_code(status), status.message, trailers(status))

    return run


def _called(behaviour: Callable[[_Request, Any], Any]) -> Callable[[_Request, Any], Any]:
    def run(request: _Request, context: grpc.ServicerContext) -> object:
        try:
            with direct():
                return behaviour(request, context)
        except OutcomeValue as value:
            status = _status(value)
            context.set_trailing_metadata(trailers(status))
            return context.abort(_code(status), status.message)

    return run


def _status(value: OutcomeValue) -> Status:
    """Snooze and Retry: call again, after the delay; there is no row that would wait here."""
    code, delay = grpc.StatusCode.UNAVAILABLE, None
    details: list[Message] = []
    if isinstance(value, (Snooze, Retry)):
        delay = value.delay
    elif isinstance(value, Cancel):
        code = grpc.StatusCode.CANCELLED
    elif isinstance(value, Fail):
        code, details = value.code, list(value.details)
    if delay is not None:
        info = RetryInfo()
        info.retry_delay.FromTimedelta(delay)
        details.append(info)
    status = Status(code=code.value[0], message=value.message if isinstance(value, Fail) else str(value))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def _code(status: Status) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == status.code)
