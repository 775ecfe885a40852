"""What of our own options would do nothing: what only a newer release knows.

An option that does nothing is a lie, so an image with one is refused, by the name of what is set. Used by
`rowcall.catalogue.methods` and `access`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from rowcall.catalogue.files import SourceFile
from rowcall.options.v1 import access_pb2, job_pb2

_PACKAGE: Final = job_pb2.DESCRIPTOR.package
_KNOWN: Final = frozenset(
    each.full_name for file in (access_pb2, job_pb2) for each in file.DESCRIPTOR.extensions_by_name.values()
)
_KINDS: Final[Mapping[str, str]] = {
    "enum_type": "enum",
    "enum_value": "enum value",
    "extension": "extension",
    "extension_range": "extensions",
    "field": "field",
    "message_type": "message",
    "method": "method",
    "nested_type": "message",
    "oneof_decl": "oneof",
    "service": "service",
    "value": "enum value",
}
"""What is declared, by the descriptor's field that has it."""


class InertOptions:
    """Finds them in the files of one pool."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._newer = _newer(pool)

    def on(self, file: SourceFile) -> list[str]:
        """A line for each option on anything in a file that would do nothing; what is within one that is known is `within`'s."""
        return list(self._unknown_on(file)) if self._newer else []

    def within(self, place: str, option: str, value: Message) -> list[str]:
        """A line for each field within an option's value that this release does not know.

        Args:
            place: What the option is set on, for people.
            option: The option, and within it the field, that has the value.
            value: It.
        """
        problems = []
        known = self._pool.FindMessageTypeByName(value.DESCRIPTOR.full_name).fields_by_number
        for number in _unknown(value):
            field = known.get(number)
            problems.append(
                _not_known(place, f"{option}, field {number}" if field is None else f"{option}.{field.name}")
            )
        for field, inner in value.ListFields():
            for each in inner if field.is_repeated else (inner,):
                if isinstance(each, Message):
                    problems.extend(self.within(place, f"{option}.{field.name}", each))
        return problems

    def _unknown_on(self, file: SourceFile) -> Iterable[str]:
        for place, options in _optioned(file.proto, file.proto.package):
            names = self._newer.get(options.DESCRIPTOR.full_name, {})
            for number in _unknown(options):
                if number in names:
                    yield _not_known(f"{file.place}: {place}" if place else file.place, f"option ({names[number]})")


def _newer(pool: DescriptorPool) -> Mapping[str, Mapping[int, str]]:
    """The options of ours that the images' files declare and this release does not: full names by what they are set on, by
    number."""
    found: dict[str, Mapping[int, str]] = {}
    for options in FileDescriptorProto.DESCRIPTOR.file.message_types_by_name.values():
        ours = {
            each.number: each.full_name
            for each in pool.FindAllExtensions(pool.FindMessageTypeByName(options.full_name))
            if each.full_name.startswith(f"{_PACKAGE}.") and each.full_name not in _KNOWN
        }
        if ours:
            found[options.full_name] = ours
    return found


def _optioned(declared: Message, name: str, kind: str = "") -> Iterator[tuple[str, Message]]:
    """Whatever has options within a descriptor: what it is, for people, "" for the file itself; and its options."""
    for field, value in declared.ListFields():
        if field.name == "options":
            yield f"{kind} {name}".lstrip() if kind else "", value
        elif field.name in _KINDS:
            for each in value:
                join = "/" if field.name == "method" else "."
                own = getattr(each, "name", "")
                yield from _optioned(each, f"{name}{join}{own}".strip("."), _KINDS[field.name])


def _unknown(message: Message) -> list[int]:
    fields = UnknownFieldSet(message)
    return sorted({fields[index].field_number for index in range(len(fields))})


def _not_known(place: str, what: str) -> str:
    return f"{place}: {what}: this release does not know it; run a release that does, or leave it out"
