"""What of messages' types a shard must know to tell two serialisations of one request from two requests.

Made of the catalogue's files and published by the gateway; read by `canonical_message` in the shard's schema, which says how.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

if TYPE_CHECKING:
    from google._upb._message import Descriptor as NativeDescriptor
    from google._upb._message import FieldDescriptor as NativeFieldDescriptor

Shape: TypeAlias = Mapping[str, Mapping[str, str | int]]
"""A message's fields by number. Of each: "kind", one of those below; "wire", the wire type of one value; "type", the full name
of a message's; "oneof", the lowest number among a oneof's members, for each of them; "bits", of a map's key that is a varint.

plain: taken as it is · implicit: not written when it is zero · packed: repeated, in one field or in many · message, messages: one,
or repeated · map: repeated, its type the entry's · key, value: of an entry, the value if it is a message."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRES: Final[Mapping[int, int]] = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_INT64: _VARINT,
    FieldDescriptor.TYPE_UINT64: _VARINT,
    FieldDescriptor.TYPE_INT32: _VARINT,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_BOOL: _VARINT,
    FieldDescriptor.TYPE_STRING: _BYTES,
    FieldDescriptor.TYPE_MESSAGE: _BYTES,
    FieldDescriptor.TYPE_BYTES: _BYTES,
    FieldDescriptor.TYPE_UINT32: _VARINT,
    FieldDescriptor.TYPE_ENUM: _VARINT,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_SINT32: _VARINT,
    FieldDescriptor.TYPE_SINT64: _VARINT,
}
"""By a field's type. Groups have none: a message with one is compared by its bytes."""

_BITS: Final[Mapping[int, int]] = {
    FieldDescriptor.TYPE_BOOL: 1,
    FieldDescriptor.TYPE_INT32: 32,
    FieldDescriptor.TYPE_UINT32: 32,
    FieldDescriptor.TYPE_SINT32: 32,
}


def shapes_of(pool: DescriptorPool, files: Iterable[str]) -> dict[str, Shape]:
    """The shapes of every message in some files of a pool, by full name; entries of maps are messages too.

    Args:
        pool: Where the files are.
        files: Their names.
    """
    return {
        message.full_name: _shape(message)
        for name in files
        for outermost in pool.FindFileByName(name).message_types_by_name.values()
        for message in _with_nested(outermost)
        # Of an encoding of its own.
        if not message.GetOptions().message_set_wire_format
    }


def _with_nested(message: Descriptor | NativeDescriptor) -> Iterator[Descriptor | NativeDescriptor]:
    yield message
    for nested in message.nested_types:
        yield from _with_nested(nested)


def _shape(message: Descriptor | NativeDescriptor) -> Shape:
    entry = message.GetOptions().map_entry
    return {str(field.number): _field(field, of_entry=entry) for field in message.fields if field.type in _WIRES}


def _field(field: FieldDescriptor | NativeFieldDescriptor, *, of_entry: bool) -> Mapping[str, str | int]:
    found: dict[str, str | int] = {"kind": _kind(field, of_entry=of_entry), "wire": _WIRES[field.type]}
    if field.message_type is not None:
        found["type"] = field.message_type.full_name
    if field.containing_oneof is not None:
        found["oneof"] = min(member.number for member in field.containing_oneof.fields)
    if found["kind"] == "key" and field.type in _WIRES and found["wire"] == _VARINT:
        found["bits"] = _BITS.get(field.type, 64)
    return found


def _kind(field: FieldDescriptor | NativeFieldDescriptor, *, of_entry: bool) -> str:
    if field.message_type is not None:
        if field.is_repeated:
            return "map" if field.message_type.GetOptions().map_entry else "messages"
        return "value" if of_entry else "message"
    if of_entry and field.number == 1:
        return "key"
    if field.is_repeated:
        packed = _WIRES[field.type] != _BYTES and not _is_closed(field)
        return "packed" if packed else "plain"
    return "plain" if _is_closed(field) or (field.has_presence and not of_entry) else "implicit"


def _is_closed(field: FieldDescriptor | NativeFieldDescriptor) -> bool:
    """Whether it is of an enumeration whose other numbers are unknown fields: those keep their place among their like."""
    return field.enum_type is not None and field.enum_type.is_closed
