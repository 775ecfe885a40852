"""The handlers of every method that is served, found by one look-up. Made by the server at its start.

gRPC's server waits for the next call of each method that is registered with it by name, and wakes all of those waits
for each call that comes: thirty methods cost each call as much as a hundred lines of ours. It is given one generic
handler instead, and waits for the next call of whatever method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from rowcall.errors import Origin, RowcallError, envelope, grpc_code, trailers
from rowcall.tracing import TraceContext
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.failures import too_large

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

NOBODYS_SECONDS: Final = 5.0
"""Seconds that a request may be on its way whose caller is nobody."""

NOBODYS_BYTES: Final = 4096
"""Bytes of a health check: everybody may ask, and who watches has it held for as long as he watches."""


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


def unary(behaviour: Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]) -> Handler:
    """The handler of a method with one request, which the behaviour asks for itself, by `message_of`; and one response, in bytes."""
    # The stubs know synchronous behaviours only.
    return grpc.stream_unary_rpc_method_handler(cast("Any", behaviour))


async def message_of(context: grpc.aio.ServicerContext[bytes, Any], *, known: bool) -> bytes:
    """The request of a call.

    Args:
        context: The call's.
        known: Whether it is known who calls. Those who are nobody have `NOBODYS_SECONDS`, so that they make us hold no more than comes in
            meanwhile.

    Raises:
        RowcallError: DEADLINE_TOO_SHORT; UNDECODABLE_REQUEST: there is none.
    """
    if known:
        message = await context.read()
    else:
        try:
            async with asyncio.timeout(NOBODYS_SECONDS):
                message = await context.read()
        except TimeoutError:
            raise RowcallError(
                ErrorReason.ERROR_REASON_DEADLINE_TOO_SHORT,
                f"The request did not come within {NOBODYS_SECONDS:g} s, which a call without a credential has; nothing was submitted.",
            ) from None
    if cast("object", message) is grpc.aio.EOF:
        # Or its caller is gone, or gRPC has refused what it sent, and has said so: then nobody hears of it.
        raise RowcallError(ErrorReason.ERROR_REASON_UNDECODABLE_REQUEST, "The call ends without a request.")
    return message


def decoding(path: str, handler: Handler) -> Handler:
    """The handler of a service that is not ours, health's say, which everybody may call: with an answer to bytes that are not its request
    (INVALID_ARGUMENT in an envelope; gRPC would say UNKNOWN, and log it as a fault of ours), and with bounds on what it takes in. One whose
    requests are a stream is left as it is."""
    behaviour = handler.unary_stream or handler.unary_unary
    deserialize = handler.request_deserializer
    if behaviour is None or deserialize is None:
        return handler
    served = cast("Callable[[Any, Any], Awaitable[Any]]", behaviour)

    async def serve(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            request = await message_of(context, known=False)
            if len(request) > NOBODYS_BYTES:
                raise too_large(len(request), NOBODYS_BYTES)
            try:
                message = deserialize(request)
            except DecodeError:
                raise undecodable(path, "") from None
        except RowcallError as error:
            trace = TraceContext.from_metadata(context.invocation_metadata() or ())
            status = envelope(error, origin=Origin.GATEWAY, trace_id=trace.trace_id)
            await context.abort(grpc_code(status), status.message, trailers(status, no_retry=True))
        return await served(message, context)

    if handler.unary_stream is None:
        return grpc.stream_unary_rpc_method_handler(cast("Any", serve), response_serializer=handler.response_serializer)
    return grpc.stream_stream_rpc_method_handler(cast("Any", serve), response_serializer=handler.response_serializer)


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

    def replace(self, handlers: Mapping[str, Handler]) -> None:
        """From now on finds these; calls that run go on."""
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Called by gRPC for each call."""
        path = handler_call_details.method
        return self._handlers.get(path) or self._unknown(path)
