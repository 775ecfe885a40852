"""A message written in another way: fields and maps' entries in any order, numbers packed or not, also inside an Any."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

ANY: Final = AnyMessage.DESCRIPTOR.full_name


def varint(number: int) -> bytes:
    """A number from 0 on, as protobuf writes it."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


def part(number: int, content: bytes) -> bytes:
    """A field of text, bytes or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def rewritten(message: Message, pool: DescriptorPool, dice: random.Random) -> bytes:
    """Another serialisation of a message.

    Args:
        message: Which one.
        pool: Where the types of what is inside an Any are.
        dice: Decides the order.
    """
    rows = [_written(message, field, value, pool, dice) for field, value in message.ListFields()]
    rows.append([_unknown(message)])
    return b"".join(_woven([row for row in rows if row], dice))


def canonical(message: Message, pool: DescriptorPool) -> bytes:
    """The one serialisation of a message, as protobuf's own library has it, with what is inside an Any likewise."""
    copy: Any = type(message)()
    copy.CopyFrom(message)
    _settle(copy, pool)
    return copy.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def _written(
    message: Message, field: FieldDescriptor, value: Any, pool: DescriptorPool, dice: random.Random
) -> list[bytes]:
    """One field, in pieces whose order counts."""
    if field.message_type is None:
        # One piece a number, each in a packed field of its own or all together.
        values = [*value] if field.is_repeated else [value]
        groups = [[each] for each in values] if dice.random() < 0.5 else [values]
        return [_alone(message, field, group if field.is_repeated else group[0]) for group in groups]
    if field.message_type.GetOptions().map_entry:
        entries = [_entry(field, key, value[key]) for key in value]
        dice.shuffle(entries)
        return [part(field.number, rewritten(entry, pool, dice)) for entry in entries]
    values = [*value] if field.is_repeated else [value]
    return [part(field.number, _inner(each, pool, dice)) for each in values]


def _inner(message: Message, pool: DescriptorPool, dice: random.Random) -> bytes:
    packed = _unpacked(message, pool)
    if packed is not None:
        assert isinstance(message, AnyMessage) or message.DESCRIPTOR.full_name == ANY
        message = type(message)(type_url=message.type_url, value=rewritten(packed, pool, dice))  # type: ignore[attr-defined]
    return rewritten(message, pool, dice)


def _unpacked(message: Any, pool: DescriptorPool) -> Message | None:
    """What is inside an Any, if that is known and can be read."""
    if message.DESCRIPTOR.full_name != ANY or "/" not in message.type_url:
        return None
    try:
        kind = pool.FindMessageTypeByName(message.type_url.rpartition("/")[2])
        return GetMessageClass(kind).FromString(message.value)
    except (KeyError, DecodeError):
        return None


def _unknown(message: Message) -> bytes:
    """What a message's type does not know of it."""
    copy = type(message)()
    copy.CopyFrom(message)
    for field, _ in message.ListFields():
        copy.ClearField(field.name)
    return copy.SerializeToString()


def _alone(message: Message, field: FieldDescriptor, value: Any) -> bytes:
    """One field, as the library writes it."""
    lone = type(message)()
    if field.is_repeated:
        getattr(lone, field.name).extend(value)
    else:
        setattr(lone, field.name, value)
    return lone.SerializeToString()


def _entry(field: FieldDescriptor, key: object, value: object) -> Message:
    assert field.message_type is not None
    entry: Any = GetMessageClass(field.message_type)()
    entry.key = key
    if isinstance(value, Message):
        entry.value.CopyFrom(value)
    else:
        entry.value = value
    return entry  # type: ignore[no-any-return]


def _woven(rows: list[list[bytes]], dice: random.Random) -> Sequence[bytes]:
    """All pieces in any order that keeps each row's own."""
    woven = []
    while rows:
        row = dice.choice(rows)
        woven.append(row.pop(0))
        if not row:
            rows.remove(row)
    return woven


def _settle(message: Any, pool: DescriptorPool) -> None:
    packed = _unpacked(message, pool)
    if packed is not None:
        message.value = canonical(packed, pool)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            values = [value[key] for key in value if field.message_type.fields_by_name["value"].message_type]
        else:
            values = [*value] if field.is_repeated else [value]
        for each in values:
            _settle(each, pool)
