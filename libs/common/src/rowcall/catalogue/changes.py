"""What changes for callers when one image takes another's place: the wire, and the policy, told apart.

Used by the gateway before it publishes an image. Compared is what is served: methods by name, and of each the types that it takes and
answers, down to the last within, by the numbers of fields. The rules of the wire are those of Buf's category WIRE, under its
names (https://buf.build/docs/breaking/rules), with the names of fields, by which JSON knows them.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto

from rowcall.catalogue.images import LoadedImage
from rowcall.catalogue.model import JobMethod
from rowcall.security.access import AccessRule

if TYPE_CHECKING:
    from google._upb._message import Descriptor as NativeDescriptor
    from google._upb._message import EnumDescriptor as NativeEnum
    from google._upb._message import FieldDescriptor as NativeField

_Message: TypeAlias = "Descriptor | NativeDescriptor"
_Enum: TypeAlias = "EnumDescriptor | NativeEnum"
_Field: TypeAlias = "FieldDescriptor | NativeField"

_T = FieldDescriptor
_SAME_WIRE: Final = (
    {_T.TYPE_INT32, _T.TYPE_UINT32, _T.TYPE_INT64, _T.TYPE_UINT64, _T.TYPE_BOOL},
    {_T.TYPE_SINT32, _T.TYPE_SINT64},
    {_T.TYPE_FIXED32, _T.TYPE_SFIXED32},
    {_T.TYPE_FIXED64, _T.TYPE_SFIXED64},
)
"""Types that are read as each other, within what both can say. A string may become bytes, and not the other way round."""


class Kind(enum.Enum):
    """What a change is of."""

    ADDED = 1
    """A method, field or value that was not there; nobody is hurt."""
    WIRE = 2
    """What was sent and is stored is read in another way, or no more."""
    POLICY = 3
    """How a method's jobs are scheduled, or who may call it."""


_ORDER: Final = (Kind.WIRE, Kind.POLICY, Kind.ADDED)


@dataclass(frozen=True, slots=True)
class Change:
    """One change."""

    kind: Kind
    """Of what."""
    subject: str
    """The method, field or value: "acme.v1.Shop/Buy", "acme.v1.Order.item"."""
    rule: str
    """Of the wire, Buf's name of the rule that it breaks; of policy, the field; empty for what was added."""
    description: str
    """What is otherwise, for people."""

    @property
    def breaking(self) -> bool:
        """Whether those who were built before may fail by it."""
        return self.kind is Kind.WIRE


def changes(old: LoadedImage | None, new: LoadedImage) -> list[Change]:
    """What is otherwise when an image takes another's place.

    Args:
        old: What was served; None: nothing.
        new: What would be.
    """
    found: list[Change] = []
    before = {} if old is None else old.methods
    for name, method in new.methods.items():
        was = before.get(name)
        if was is None or old is None:
            found.append(Change(Kind.ADDED, name, "", "is new"))
            continue
        found += _of_method(was, method)
        found += _of_policy(was, method, old.access[name].rule, new.access[name].rule)
    found += [
        Change(Kind.WIRE, name, "RPC_NO_DELETE", "is gone: it is served no more, and what waits of it stays")
        for name in before
        if name not in new.methods
    ]
    # A type may be of many methods.
    return sorted(dict.fromkeys(found), key=lambda change: (_ORDER.index(change.kind), change.subject, change.rule))


def _of_policy(
    was: JobMethod, method: JobMethod, old_rule: AccessRule | None, new_rule: AccessRule | None
) -> Iterator[Change]:
    for field in dataclasses.fields(was.policy):
        before, after = getattr(was.policy, field.name), getattr(method.policy, field.name)
        if before != after:
            yield Change(Kind.POLICY, method.name, field.name, f"{field.name} is {after}, and was {before}")
    if old_rule != new_rule:
        yield Change(
            Kind.POLICY, method.name, "access", f"may be called by {_who(new_rule)}, and was by {_who(old_rule)}"
        )


def _who(rule: AccessRule | None) -> str:
    return "those that the gateway's settings say" if rule is None else str(rule)


def _of_method(was: JobMethod, method: JobMethod) -> Iterator[Change]:
    pairs = (
        ("RPC_SAME_REQUEST_TYPE", "takes", was.request_class, method.request_class),
        ("RPC_SAME_RESPONSE_TYPE", "answers with", was.response_class, method.response_class),
    )
    if was.returns_operation != method.returns_operation:
        kinds = ["its response", "an operation"]
        after, before = kinds[method.returns_operation], kinds[was.returns_operation]
        yield Change(Kind.WIRE, method.name, "RPC_SAME_RESPONSE_TYPE", f"answers with {after}, and did with {before}")
    seen: set[str] = set()
    for rule, word, old, new in pairs:
        before, after = old.DESCRIPTOR.full_name, new.DESCRIPTOR.full_name
        if before != after:
            yield Change(Kind.WIRE, method.name, rule, f"{word} {after}, and did {before}")
        else:
            yield from _of_message(cast("Descriptor", old.DESCRIPTOR), cast("Descriptor", new.DESCRIPTOR), seen)


def _of_message(old: _Message, new: _Message, seen: set[str]) -> Iterator[Change]:
    if old.full_name in seen:
        return
    seen.add(old.full_name)
    reserved = _reserved(new)
    for number, was in old.fields_by_number.items():
        field = new.fields_by_number.get(number)
        if field is None:
            if not any(start <= number < end for start, end in reserved):
                yield Change(
                    Kind.WIRE,
                    was.full_name,
                    "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
                    f"(number {number}) is gone; reserve the number, lest another field takes it",
                )
            continue
        yield from _of_field(was, field)
        # Of another type it was told that it is another; what is within is nothing to compare.
        if _named(was) != _named(field):
            continue
        if was.message_type is not None and field.message_type is not None:
            yield from _of_message(was.message_type, field.message_type, seen)
        if was.enum_type is not None and field.enum_type is not None:
            yield from _of_enum(was.enum_type, field.enum_type, seen)
    for number, field in new.fields_by_number.items():
        if number not in old.fields_by_number:
            yield Change(Kind.ADDED, field.full_name, "", f"(number {number}) is new")


def _of_field(was: _Field, field: _Field) -> Iterator[Change]:
    if was.is_repeated != field.is_repeated:
        words = ["single", "repeated"]
        said = f"is {words[field.is_repeated]}, and was {words[was.is_repeated]}"
        yield Change(Kind.WIRE, was.full_name, "FIELD_WIRE_COMPATIBLE_CARDINALITY", said)
    elif not _same_type(was, field):
        said = f"is {_type(field)}, and was {_type(was)}"
        yield Change(Kind.WIRE, was.full_name, "FIELD_WIRE_COMPATIBLE_TYPE", said)
    if was.name != field.name or was.json_name != field.json_name:
        said = f"(number {was.number}) is called {field.name}, by which JSON knows it"
        yield Change(Kind.WIRE, was.full_name, "FIELD_SAME_NAME", said)
    if _oneof(was) != _oneof(field):
        said = f"is in {_oneof(field) or 'no oneof'}, and was in {_oneof(was) or 'none'}"
        yield Change(Kind.WIRE, was.full_name, "FIELD_SAME_ONEOF", said)


def _of_enum(old: _Enum, new: _Enum, seen: set[str]) -> Iterator[Change]:
    if old.full_name in seen:
        return
    seen.add(old.full_name)
    for number, value in old.values_by_number.items():
        if number not in new.values_by_number:
            said = f"(number {number}) is gone"
            yield Change(Kind.WIRE, f"{old.full_name}.{value.name}", "ENUM_VALUE_NO_DELETE", said)
    for number, value in new.values_by_number.items():
        if number not in old.values_by_number:
            yield Change(Kind.ADDED, f"{new.full_name}.{value.name}", "", f"(number {number}) is new")


def _same_type(was: _Field, field: _Field) -> bool:
    if was.type == field.type:
        return _named(was) == _named(field)
    if was.type == _T.TYPE_STRING and field.type == _T.TYPE_BYTES:
        return True
    return any(was.type in group and field.type in group for group in _SAME_WIRE)


def _named(field: _Field) -> str:
    kind = field.message_type or field.enum_type
    return "" if kind is None else kind.full_name


def _type(field: _Field) -> str:
    names = {number: name for name, number in vars(FieldDescriptor).items() if name.startswith("TYPE_")}
    return _named(field) or names[field.type].removeprefix("TYPE_").lower()


def _oneof(field: _Field) -> str:
    # Those of `optional` are no oneofs to anybody.
    oneof = field.containing_oneof
    return "" if oneof is None or (len(oneof.fields) == 1 and oneof.name.startswith("_")) else oneof.name


def _reserved(message: _Message) -> list[tuple[int, int]]:
    proto = DescriptorProto()
    message.CopyToProto(proto)
    return [(each.start, each.end) for each in proto.reserved_range]
