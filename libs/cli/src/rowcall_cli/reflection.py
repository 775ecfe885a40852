"""Messages of job types this command was not built with: their descriptors come from the gateway's reflection.

They are found by method: a gateway may have two types of one name, of two images. What is described of one service fits together, so
it is kept in a pool of its own. Used by `submit` (JSON in) and by `jobs show --full` (JSON out). A gateway with reflection switched off still runs
commands; payloads are then shown as bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any as AnyType
from typing import Final, NamedTuple, TypeVar, cast

import grpc
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from rowcall.errors import status_of
from rowcall_cli.base64_fields import not_base64
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.redaction import has_secrets, to_json

LOOKUP_SECONDS: Final = 30.0
"""How long a command waits for one description."""

_Found = TypeVar("_Found")


class Types:
    """The message types that a gateway serves, looked up as they are needed."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._pools: dict[str, DescriptorPool] = {}
        """By service."""

    def request_of(self, method: str) -> type[Message]:
        """The class of a method's request.

        Raises CommandError when the gateway does not describe the method, grpc.RpcError when it does not answer.
        """
        try:
            found = self._method(method)
        except grpc.RpcError as error:
            if status_of(error).code != grpc.StatusCode.UNIMPLEMENTED.value[0]:
                raise
            found = None  # it serves no reflection
        if found is None:
            raise CommandError(
                f"The gateway does not describe {method}: check the name (package.Service/Method), that the gateway was "
                "given its image, and that it serves reflection."
            )
        return GetMessageClass(found.input_type)

    def parse(self, text: str, kind: type[Message]) -> Message:
        """A message from its JSON.

        Raises CommandError (USAGE) that says what in it does not fit.
        """
        descriptor = cast("Descriptor", kind.DESCRIPTOR)
        try:
            message = json_format.Parse(text, kind(), descriptor_pool=descriptor.file.pool)
        except json_format.ParseError as error:
            what = str(error).rstrip(".")
            raise CommandError(f"--json is no {descriptor.full_name}: {what}.", ExitCode.USAGE) from error
        path = next(not_base64(json.loads(text), descriptor), None)
        if path is not None:
            raise CommandError(
                f"--json is no {descriptor.full_name}: {path} holds bytes and is not base64.", ExitCode.USAGE
            )
        return message

    def render(self, packed: Any, method: str) -> Mapping[str, object]:
        """A payload as JSON, its secret fields masked, or as base64 where its type is not to be had.

        Where it cannot be shown as JSON, and has fields that are secret, only its size is shown.

        Args:
            packed: The payload.
            method: Of its job: "package.Service/Method".
        """
        kind = self._find(packed.TypeName(), method)
        if kind is not None:
            message = GetMessageClass(kind)()
            try:
                message.ParseFromString(packed.value)
                fields = to_json(message, kind.file.pool)
            except (DecodeError, TypeError, ValueError, json_format.Error):
                # It is not what it says, or says what JSON has no form for: a time in the year 20000.
                pass
            else:
                # As protobuf's own JSON of an Any has it.
                return {"@type": packed.type_url, **(fields if isinstance(fields, dict) else {"value": fields})}
            if has_secrets(kind):
                return {"@type": packed.type_url, "redacted": f"{len(packed.value)} bytes"}
        return {"@type": packed.type_url, "base64": base64.b64encode(packed.value).decode()}

    def _find(self, name: str, method: str) -> Descriptor | None:
        """A type as the image of a method has it."""
        try:
            # With the service comes what its methods take and answer. Without it, the name may be of another image's type.
            if self._method(method) is None:
                return None
            return _described(self._pool(method).FindMessageTypeByName, name)
        except grpc.RpcError:
            return None

    def _method(self, method: str) -> MethodDescriptor | None:
        service, _, name = method.lstrip("/").rpartition("/")
        described = _described(self._pool(method).FindServiceByName, service) if service else None
        return None if described is None else described.methods_by_name.get(name)

    def _pool(self, method: str) -> DescriptorPool:
        """Where the types of a method's service are."""
        service = method.lstrip("/").rpartition("/")[0]
        pool = self._pools.get(service)
        if pool is None:
            pool = self._pools[service] = DescriptorPool(
                ProtoReflectionDescriptorDatabase(grpc.intercept_channel(self._channel, _Deadline()))
            )
        return pool


def _described(find: Callable[[str], _Found], name: str) -> _Found | None:
    """What a pool finds; None for what is not described, or not in a way that makes sense.

    grpcio-reflection raises KeyError for what is not there, AssertionError for any other error of the gateway's,
    StopIteration where the gateway ends the stream without an answer; protobuf raises the rest over files that it cannot
    use.
    """
    try:
        return find(name)
    except (KeyError, AssertionError, StopIteration, DecodeError, TypeError):
        return None


class _Details(NamedTuple):
    """grpc.ClientCallDetails, as an interceptor passes them on."""

    method: str
    timeout: float | None
    metadata: AnyType
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Deadline(grpc.StreamStreamClientInterceptor):
    """Bounds what grpcio-reflection asks for: it gives its calls no deadline, and would wait for ever."""

    def intercept_stream_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Iterator[AnyType]], AnyType],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Iterator[AnyType],
    ) -> AnyType:
        """As gRPC calls it."""
        details = _Details(
            client_call_details.method,
            LOOKUP_SECONDS,
            client_call_details.metadata,
            client_call_details.credentials,
            client_call_details.wait_for_ready,
            client_call_details.compression,
        )
        return continuation(cast("grpc.ClientCallDetails", details), request_iterator)
