"""The handlers of every method that is served, found by one look-up. Made by the server at its start.

gRPC's server waits for the next call of each method that is registered with it by name, and wakes all of those waits
for each call that comes: thirty methods cost each call as much as a hundred lines of ours. It is given one generic
handler instead, and waits for the next call of whatever method.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from rowcall.errors import Origin, RowcallError, envelope, grpc_code, trailers
from rowcall.tracing import TraceContext
from rowcall.v1.error_reason_pb2 import ErrorReason

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class MethodPath(NamedTuple):
    """As much of grpc.HandlerCallDetails as there is before a call: its method's path."""

    method: str
    """"/package.Service/Method"."""
    invocation_metadata: tuple[()] = ()


class Collected:
    """Takes servicers in the server's place: for `add_XServicer_to_server`."""

    def __init__(self) -> None:
        self._found: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Takes the handlers of a servicer."""
        self._found.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Leaves out the same handlers, which newer generated code adds in this form too."""

    def of(self, paths: Iterable[str]) -> Mapping[str, Handler]:
        """The handlers of those of the methods that were added, by path."""
        handlers = {}
        for path in paths:
            details = cast("grpc.HandlerCallDetails", MethodPath(path))
            handler = next(filter(None, (each.service(details) for each in self._found)), None)
            if handler is not None:
                handlers[path] = handler
        return handlers


def decoding(path: str, handler: Handler) -> Handler:
    """The handler of a service that is not ours, health's say, with an answer to bytes that are not its request: INVALID_ARGUMENT in an
    envelope. gRPC would say UNKNOWN, and log it as a fault of ours. One whose requests are a stream is left as it is."""
    behaviour = handler.unary_stream or handler.unary_unary
    deserialize = handler.request_deserializer
    if behaviour is None or deserialize is None:
        return handler
    served = cast("Callable[[Any, Any], Awaitable[Any]]", behaviour)

    async def serve(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            message = deserialize(request)
        except DecodeError:
            trace = TraceContext.from_metadata(context.invocation_metadata() or ())
            status = envelope(undecodable(path, ""), origin=Origin.GATEWAY, trace_id=trace.trace_id)
            await context.abort(grpc_code(status), status.message, trailers(status, no_retry=True))
        return await served(message, context)

    make = grpc.unary_unary_rpc_method_handler if handler.unary_stream is None else grpc.unary_stream_rpc_method_handler
    return make(cast("Any", serve), response_serializer=handler.response_serializer)


def undecodable(path: str, request_type: str) -> RowcallError:
    """The error of bytes that are not the request of a method; its type may be unknown, "" then."""
    return RowcallError(
        ErrorReason.ERROR_REASON_UNDECODABLE_REQUEST,
        f"{path[1:]} takes {f'a {request_type}' if request_type else 'another request'}, and the bytes are not such a message; "
        "generate the client from the proto that the gateway serves.",
        metadata={"type": request_type},
    )


class ByPath(grpc.GenericRpcHandler):
    """Finds a call's handler by its path."""

    def __init__(self, handlers: Mapping[str, Handler], unknown: Callable[[str], Handler | None]) -> None:
        """
        Args:
            handlers: By path.
            unknown: Makes a handler for a call of a path that is not among them; None: gRPC says that there is none.
        """
        self._handlers = handlers
        self._unknown = unknown

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Called by gRPC for each call."""
        path = handler_call_details.method
        return self._handlers.get(path) or self._unknown(path)
