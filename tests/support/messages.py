"""Messages that nobody would send: valid ones of any type, made by dice from its descriptor, and what becomes of their bytes."""

from __future__ import annotations

import random
import string
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_DEPTH: Final = 4
_LONGEST: Final = 40
_EDGES: Final = (0, 1, -1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
_TEXTS: Final = (
    "",
    "acme",
    "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000",
    "tenants/rival/operations/0199d1f0-0000-7000-8000-000000000000",
    "rowcall.probe.v1.ProbeService/Await",
    "../../etc/passwd",
    "'; drop table rowcall.job; --",
    "\x00",
    "\U0001f4a5" * 50,
    "a" * 10_000,
    "%s%n{0}$(id)",
)

_NUMBERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
"""The lowest and the highest number of each kind."""


def fill(made: Message, dice: random.Random, depth: int = 0) -> Message:
    """Sets some of a message's fields to something that their types allow."""
    # The stubs know both of its classes.
    descriptor = cast("Descriptor", made.DESCRIPTOR)
    if descriptor.full_name == "google.protobuf.Any":
        return _any(made, dice)
    for field in descriptor.fields:
        if dice.random() < 0.5:
            _set(made, field, dice, depth)
    return made


def mutate(data: bytes, dice: random.Random) -> bytes:
    """What a few faults make of bytes: changed, cut, doubled, moved, and lengths that are not true."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        kind = dice.randrange(9)
        at = dice.randint(0, len(changed))
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << dice.randrange(8)
        elif kind == 1:
            changed[at:at] = dice.randbytes(dice.randint(1, 16))
        elif kind == 2:
            del changed[at : at + dice.randint(1, 16)]
        elif kind == 3:
            changed += changed[at : at + dice.randint(1, 64)]
        elif kind == 4:
            # A length, a number or a tag that goes on, and on.
            changed[at:at] = b"\xff" * dice.randint(1, 12) + b"\x01"
        elif kind == 5:
            # A field of each number and wire type there is, the reserved ones too.
            changed[at:at] = _varint(dice.choice((0, 1, 15, 19_000, 536_870_911)) << 3 | dice.randrange(8))
        elif kind == 6:
            changed[at:at] = nested(dice.choice((1, 2, 3, 15)), dice.choice((50, 101, 500, 5_000)))
        elif kind == 7:
            # Says that more comes than does.
            changed[at:at] = b"\x0a" + _varint(dice.choice((1, 2**20, 2**31 - 1, 2**32 - 1, 2**63)))
        else:
            changed[at:at] = b"\x0b" * dice.choice((1, 200, 3_000))  # groups that are never closed
    return bytes(changed)


def nested(number: int, depth: int) -> bytes:
    """Messages in messages, so many deep, in the field of that number."""
    inner = b""
    for _ in range(depth):
        inner = bytes((number << 3 | 2,)) + _varint(len(inner)) + inner
    return inner


def _set(made: Message, field: FieldDescriptor, dice: random.Random, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entries = getattr(made, field.name)
        value_field = field.message_type.fields_by_name["value"]
        if value_field.message_type is None:
            for _ in range(dice.randint(0, 3)):
                entries[_scalar(field.message_type.fields_by_name["key"], dice)] = _scalar(value_field, dice)
        return
    if field.is_repeated:
        values = getattr(made, field.name)
        for _ in range(dice.randint(0, 3)):
            if field.message_type is None:
                values.append(_scalar(field, dice))
            elif depth < _DEPTH:
                fill(values.add(), dice, depth + 1)
    elif field.message_type is not None:
        if depth < _DEPTH:
            inner = getattr(made, field.name)
            inner.SetInParent()
            fill(inner, dice, depth + 1)
    else:
        setattr(made, field.name, _scalar(field, dice))


def _scalar(field: FieldDescriptor, dice: random.Random) -> Any:
    if field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values]
        return dice.choice(numbers if field.enum_type.is_closed else [*numbers, 9_999])
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _words(field, dice)
    if field.cpp_type in _NUMBERS:
        lowest, highest = _NUMBERS[field.cpp_type]
        edges = [edge for edge in _EDGES if lowest <= edge <= highest]
        return dice.choice([*edges, dice.randint(max(lowest, -100), 100)])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return dice.random() < 0.5
    return dice.choice((0.0, -1.5, float("nan"), float("inf"), 1e38))


def _words(field: FieldDescriptor, dice: random.Random) -> str | bytes:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return dice.randbytes(dice.randint(0, _LONGEST))
    return dice.choice([*_TEXTS, "".join(dice.choices(string.printable, k=dice.randint(0, _LONGEST)))])


def _any(made: Any, dice: random.Random) -> Message:
    made.type_url = dice.choice(
        (
            "type.googleapis.com/rowcall.probe.v1.EchoRequest",
            "type.googleapis.com/google.protobuf.Any",
            "rowcall.probe.v1.EchoRequest",
            "type.googleapis.com/no.Such",
            "https://attacker.example/x",
            "",
        )
    )
    made.value = dice.randbytes(dice.randint(0, _LONGEST))
    found: Message = made
    return found


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
