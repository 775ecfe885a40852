"""Messages of job types this command was not built with: their descriptors come from the gateway's reflection.

Used by `submit` (JSON in) and by `jobs show --full` (JSON out). A gateway with reflection switched off still runs
commands; payloads are then shown as bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import cast

import grpc
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from rowcall_cli.base64_fields import not_base64
from rowcall_cli.errors import CommandError, ExitCode


class Types:
    """The message types that a gateway serves, looked up as they are needed."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    def request_of(self, method: str) -> type[Message]:
        """The class of a method's request.

        Raises CommandError when the gateway does not serve the method.
        """
        service, _, name = method.lstrip("/").rpartition("/")
        try:
            found = self._pool.FindServiceByName(service).methods_by_name.get(name)
        except KeyError:
            found = None
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
            message = json_format.Parse(text, kind(), descriptor_pool=self._pool)
        except json_format.ParseError as error:
            what = str(error).rstrip(".")
            raise CommandError(f"--json is no {descriptor.full_name}: {what}.", ExitCode.USAGE) from error
        path = next(not_base64(json.loads(text), descriptor), None)
        if path is not None:
            raise CommandError(
                f"--json is no {descriptor.full_name}: {path} holds bytes and is not base64.", ExitCode.USAGE
            )
        return message

    def render(self, packed: Any) -> Mapping[str, object]:
        """A payload as JSON, or as base64 where its type is not to be had."""
        kind = self._find(packed.TypeName())
        if kind is not None:
            message = GetMessageClass(kind)()
            try:
                message.ParseFromString(packed.value)
                fields = json_format.MessageToDict(message, descriptor_pool=self._pool)
            except (DecodeError, TypeError):
                pass
            else:
                return {"@type": packed.type_url, **cast("dict[str, object]", fields)}
        return {"@type": packed.type_url, "base64": base64.b64encode(packed.value).decode()}

    def _find(self, name: str) -> Descriptor | None:
        try:
            return self._pool.FindMessageTypeByName(name)
        except (KeyError, grpc.RpcError):
            return None
