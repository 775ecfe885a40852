"""The handlers of every method that is served, found by one look-up. Made by the server at its start.

gRPC's server waits for the next call of each method that is registered with it by name, and wakes all of those waits
for each call that comes: thirty methods cost each call as much as a hundred lines of ours. It is given one generic
handler instead, and waits for the next call of whatever method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import grpc

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
