"""Which methods this worker serves, and how: what `add_XServicer_to_server` registered, matched with the catalogue.

Filled by `rowcall_worker.worker` before the start, resolved once at the start, read for every claim.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import grpc
from google.protobuf.message import Message

from rowcall.catalogue.model import JobMethod

# Generated code says `RpcMethodHandler[Any, Any]`: gRPC's own types know neither message nor context of a method.
RegisteredHandler: TypeAlias = "grpc.RpcMethodHandler[Message, Message]"

Behaviour: TypeAlias = Callable[[Message, object], "Message | Awaitable[Message]"]


class RegistrationError(ValueError):
    """A servicer cannot be served from the queue; the message says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class ServedMethod:
    """A method this worker runs jobs of."""

    name: str
    """package.Service/Method"""
    behaviour: Behaviour
    """The servicer's bound method."""
    decode: Callable[[bytes], Message]
    """Request deserializer of the generated code."""
    encode: Callable[[Message], bytes]
    """Response serializer of the generated code."""
    is_async: bool
    """Whether it runs in the event loop; else in a thread."""
    request_type: str
    """Full name of the request's type."""
    response_type: str
    """Full name of the type that a job answers with."""
    returns_operation: bool
    """Whether the handler returns a google.longrunning.Operation around it."""


@dataclass(frozen=True, slots=True)
class Served:
    """What was registered, matched with the catalogue."""

    methods: Mapping[str, ServedMethod]
    """By "package.Service/Method"."""
    ignored: tuple[str, ...]
    """Registered methods that are no job types: no row of theirs exists, so that the worker never runs them."""


@dataclass(frozen=True, slots=True)
class _CallDetails:
    """What a generic handler is asked with (grpc.HandlerCallDetails)."""

    method: str
    invocation_metadata: tuple[()] = field(default=())


class Registry:
    """The handlers as registered, by path."""

    def __init__(self) -> None:
        self._registered: dict[str, RegisteredHandler] = {}
        self._generic: list[grpc.GenericRpcHandler] = []

    @property
    def services(self) -> list[str]:
        """The services with registered handlers, by full name, sorted."""
        return sorted({name.rpartition("/")[0] for name in self._registered})

    @property
    def size(self) -> int:
        """How many registrations there were."""
        return len(self._registered) + len(self._generic)

    def add_registered(self, service: str, handlers: Mapping[str, RegisteredHandler]) -> None:
        """Takes the handlers of a service, as generated code hands them over.

        Raises:
            RegistrationError: A method streams, or is registered already.
        """
        for method, handler in handlers.items():
            name = f"{service}/{method}"
            _check(name, handler)
            if name in self._registered:
                raise RegistrationError(f"{name} is registered twice; register one servicer for a service")
        for method, handler in handlers.items():
            self._registered[f"{service}/{method}"] = handler

    def add_generic(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Takes generic handlers. They are asked for the catalogue's methods that nothing else serves."""
        self._generic.extend(handlers)

    def resolve(self, catalogue: Mapping[str, JobMethod]) -> Served:
        """Matches the handlers with the job methods.

        Args:
            catalogue: The known job methods by "package.Service/Method".

        Raises:
            RegistrationError: A service has no job type at all, or a generic handler streams.
        """
        methods: dict[str, ServedMethod] = {}
        for name, job_method in catalogue.items():
            handler = self._registered.get(name) or self._ask_generic(job_method.path)
            if handler is not None:
                _check(name, handler)
                methods[name] = _served(job_method, handler)
        for service in self.services:
            if not any(name.rpartition("/")[0] == service for name in methods):
                raise RegistrationError(
                    f"no method of {service} is a job type, so that no row of it can exist; give its methods the option "
                    "(rowcall.options.v1.job), or name the image that has it with --image"
                )
        return Served(methods, tuple(sorted(set(self._registered) - set(methods))))

    def _ask_generic(self, path: str) -> RegisteredHandler | None:
        for handler in self._generic:
            found = handler.service(cast("grpc.HandlerCallDetails", _CallDetails(path)))
            if found is not None:
                return found
        return None


def _check(name: str, handler: RegisteredHandler) -> None:
    if handler.request_streaming or handler.response_streaming:
        raise RegistrationError(
            f"{name} streams, and a job has one request and one response; move it to a service that is served directly"
        )


def _served(method: JobMethod, handler: RegisteredHandler) -> ServedMethod:
    behaviour, decode, encode = handler.unary_unary, handler.request_deserializer, handler.response_serializer
    if behaviour is None or decode is None or encode is None:
        raise RegistrationError(
            f"{method.name} was registered without behaviour, request deserializer or response serializer; register it "
            "with the generated add_…Servicer_to_server"
        )
    return ServedMethod(
        name=method.name,
        behaviour=cast("Behaviour", behaviour),
        decode=decode,
        encode=encode,
        is_async=inspect.iscoroutinefunction(behaviour),
        request_type=method.request_type,
        response_type=method.response_type,
        returns_operation=method.returns_operation,
    )
