"""Messages as JSON for people, without the fields that their proto marks as secret: `[debug_redact = true]`, protobuf's own option.

Called by `reflection` and `job_output`, for everything that a command shows of a payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any as AnyType
from typing import Final, cast

from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

MASK: Final = "[REDACTED]"
"""What is shown in place of a secret field's value, of whatever type."""

_ANY: Final = Any.DESCRIPTOR.full_name
_OWN_JSON: Final = "google.protobuf."
"""The well-known types have a JSON of their own, and nothing in it is secret."""


def to_json(message: Message, pool: DescriptorPool | None = None, *, proto_names: bool = False) -> object:
    """A message as protobuf's JSON has it, its secret fields masked, also within an Any. Of a Duration or a BytesValue no dictionary.

    Args:
        message: The message.
        pool: Knows the types within Anys; None: those that this process was built with.
        proto_names: Whether fields are named as in the proto, rather than as in JSON.

    Raises:
        TypeError, ValueError, google.protobuf.json_format.Error: It says what JSON has no form for, or has an Any of a type
            that is not known.
    """
    fields = cast("object", MessageToDict(message, descriptor_pool=pool, preserving_proto_field_name=proto_names))
    _Masking(pool or descriptor_pool.Default(), proto_names=proto_names).mask(message, fields)
    return fields


def has_secrets(kind: Descriptor) -> bool:
    """Whether a type has a field that is secret, at any depth. What an Any in it may hold is not known."""
    seen: set[str] = set()
    waiting = [kind]
    while waiting:
        looked_at = waiting.pop()
        if looked_at.full_name in seen:
            continue
        seen.add(looked_at.full_name)
        for field in looked_at.fields:
            if _is_secret(field):
                return True
            if field.message_type is not None:
                waiting.append(field.message_type)
    return False


class _Masking:
    """Masks what `MessageToDict` has made, in place."""

    def __init__(self, pool: DescriptorPool, *, proto_names: bool) -> None:
        self._pool = pool
        self._proto_names = proto_names

    def mask(self, message: Message, fields: object) -> None:
        """Goes through a message and its JSON together."""
        name = message.DESCRIPTOR.full_name
        if name == _ANY:
            inner = self._inner(cast("Any", message))
            if inner is not None and isinstance(fields, dict):
                # What has a JSON of its own is under "value".
                self.mask(inner, fields.get("value") if inner.DESCRIPTOR.full_name == _ANY else fields)
        elif isinstance(fields, dict) and not name.startswith(_OWN_JSON):
            for field, value in message.ListFields():
                key = self._key(field)
                if key not in fields:
                    continue
                if _is_secret(field):
                    fields[key] = MASK
                elif field.message_type is not None:
                    self._within(field, value, fields[key])

    def _within(self, field: FieldDescriptor, value: AnyType, shown: AnyType) -> None:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            if kind.fields_by_name["value"].message_type is not None:
                for key, each in cast("Mapping[object, Message]", value).items():
                    self.mask(each, shown[_json_key(key)])
        elif field.is_repeated:
            for each, part in zip(value, shown, strict=True):
                self.mask(each, part)
        else:
            self.mask(value, shown)

    def _inner(self, packed: Any) -> Message | None:
        try:
            return GetMessageClass(self._pool.FindMessageTypeByName(packed.TypeName())).FromString(packed.value)
        except (KeyError, DecodeError):
            return None

    def _key(self, field: FieldDescriptor) -> str:
        if field.is_extension:
            return f"[{field.full_name}]"
        return field.name if self._proto_names else field.json_name


def _is_secret(field: FieldDescriptor) -> bool:
    secret: bool = field.GetOptions().debug_redact
    return secret


def _json_key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)
