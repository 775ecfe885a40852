"""The access rules that images give their methods: option rowcall.options.v1.access of a method, or service_access of its service.

Used by `rowcall.catalogue.methods` alone. Whether a rule is within what the deployment allows is asked by `grants`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final, NamedTuple

from google.protobuf.descriptor_pb2 import ServiceDescriptorProto

from rowcall.catalogue.files import SourceFile
from rowcall.catalogue.inert import InertOptions
from rowcall.options.v1 import access_pb2
from rowcall.security.access import AccessRule, wrong_names

ACCESS: Final = f"option ({access_pb2.DESCRIPTOR.package}.access)"
SERVICE_ACCESS: Final = f"option ({access_pb2.DESCRIPTOR.package}.service_access)"


class Source(enum.StrEnum):
    """Where a method's rule comes from."""

    OWN = "own"
    """The method's own option."""
    SERVICE = "service"
    """The option of its service."""
    DEFAULT = "default"
    """ROWCALL_ACCESS_DEFAULT, for methods of images that say nothing."""
    BUILT_IN = "built-in"
    """The release's own, for Rowcall's services, operations, health and reflection."""
    NONE = "none"
    """Nobody gave it one."""


class Declared(NamedTuple):
    """What an image says of who may call a method."""

    rule: AccessRule | None
    """None: nothing."""
    source: Source
    """OWN, SERVICE or NONE."""
    place: str
    """The method, its file and image, for messages."""


class AccessReader:
    """Reads the rules of one image's files after another."""

    problems: list[str]
    """What is wrong with them."""

    def __init__(self, inert: InertOptions) -> None:
        self.problems = []
        self._inert = inert

    def read(self, file: SourceFile) -> Iterator[tuple[str, Declared]]:
        """What a file says of each of its methods, by name. Not for files of ours: their rules are the release's own."""
        for service in file.proto.service:
            name = f"{file.proto.package}.{service.name}".removeprefix(".")
            yield from self._read_service(file, name, service)

    def _read_service(
        self, file: SourceFile, name: str, service: ServiceDescriptorProto
    ) -> Iterator[tuple[str, Declared]]:
        shared = None
        if service.options.HasExtension(access_pb2.service_access):
            given = service.options.Extensions[access_pb2.service_access]
            shared = self._rule(f"{file.place}: service {name}", SERVICE_ACCESS, given)
        for method in service.method:
            full_name = f"{name}/{method.name}"
            place = f"{file.place}: method {full_name}"
            if method.options.HasExtension(access_pb2.access):
                rule = self._rule(place, ACCESS, method.options.Extensions[access_pb2.access])
                yield full_name, Declared(rule, Source.OWN, place)
            else:
                yield full_name, Declared(shared, Source.NONE if shared is None else Source.SERVICE, place)

    def _rule(self, place: str, option: str, given: access_pb2.AccessRule) -> AccessRule:
        self.problems += self._inert.within(place, option, given)
        self.problems += [f"{place}: {option} has {problem}" for problem in wrong_names(given.roles, given.scopes)]
        rule = rule_of(given)
        if given.public and (given.roles or given.scopes):
            self.problems.append(
                f"{place}: {option} is public and has roles or scopes; whoever calls has either: leave one of them out"
            )
        return rule


def rule_of(given: access_pb2.AccessRule) -> AccessRule:
    """An option as a value."""
    return AccessRule(frozenset(given.roles), frozenset(given.scopes), given.public)
