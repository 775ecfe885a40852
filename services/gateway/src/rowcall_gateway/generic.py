"""Serves every job method of the catalogue by its descriptor alone: bytes in, bytes out, no generated code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc

from rowcall.catalogue.images import Catalogue
from rowcall.catalogue.model import JobMethod
from rowcall_gateway import incoming
from rowcall_gateway.calls import JobCalls
from rowcall_gateway.incoming import IncomingCall

Answer: TypeAlias = Callable[[JobMethod, bytes, IncomingCall], Awaitable[bytes]]


class JobMethodHandlers(grpc.GenericRpcHandler):
    """A handler for each method, made once."""

    def __init__(self, catalogue: Catalogue, calls: JobCalls) -> None:
        self._handlers = {
            method.path: _handler(method, calls.operation if method.returns_operation else calls.typed)
            for method in catalogue.methods.values()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by gRPC for each call; None: not one of ours."""
        return self._handlers.get(handler_call_details.method)


def _handler(method: JobMethod, answer: Answer) -> grpc.RpcMethodHandler[Any, Any]:
    async def behave(request: bytes, _context: object) -> bytes:
        return await answer(method, request, incoming.current())

    # The stubs know synchronous behaviours only.
    return grpc.unary_unary_rpc_method_handler(cast("Callable[[Any, grpc.ServicerContext], Any]", behave))
