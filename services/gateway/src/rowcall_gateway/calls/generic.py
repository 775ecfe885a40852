"""Serves every job method of the catalogue by its descriptor alone: bytes in, bytes out, no generated code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, cast

import grpc

from rowcall.catalogue.images import Catalogue
from rowcall.catalogue.model import JobMethod
from rowcall_gateway.calls.job_calls import JobCalls
from rowcall_gateway.edge import incoming
from rowcall_gateway.edge.handlers import Handler
from rowcall_gateway.edge.incoming import IncomingCall

Answer: TypeAlias = Callable[[JobMethod, bytes, IncomingCall], Awaitable[bytes]]


def job_method_handlers(catalogue: Catalogue, calls: JobCalls) -> Mapping[str, Handler]:
    """A handler for each method, by its path."""
    return {
        method.path: _handler(method, calls.operation if method.returns_operation else calls.typed)
        for method in catalogue.methods.values()
    }


def _handler(method: JobMethod, answer: Answer) -> Handler:
    def behave(request: bytes, _context: object) -> Awaitable[bytes]:
        return answer(method, request, incoming.current())

    # The stubs know synchronous behaviours only.
    return grpc.unary_unary_rpc_method_handler(cast("Callable[[Any, grpc.ServicerContext], Any]", behave))
