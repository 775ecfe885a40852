"""A descriptor image as a set of files in a descriptor pool of its own. Used by `rowcall.catalogue.images` alone.

An image is a serialised google.protobuf.FileDescriptorSet, as `buf build -o` and `protoc --descriptor_set_out` write
it. Images overlap: each brings the files it imports, in the versions it was compiled with, and keeps them, in a pool
that no other image is in. It may leave out files of google, of protovalidate and of ours. Those only ever grow, so of its
copy and the built-in one that is taken which declares the most.
"""

from __future__ import annotations

import graphlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from rowcall.catalogue.errors import ImageError

if TYPE_CHECKING:
    from google._upb._message import FileDescriptor as NativeFileDescriptor

AnyFileDescriptor: TypeAlias = "FileDescriptor | NativeFileDescriptor"
"""A generated module's DESCRIPTOR: stubs disagree on which of two names the one class has."""

HOW_TO_BUILD: Final = (
    "build it with `buf build -o FILE.binpb` or `protoc --include_imports --descriptor_set_out=FILE.pb`"
)
"""What every problem with an image's files comes down to."""

BUILT_IN: Final = "built in"
"""What stands for the image of files that come with this library or its server."""

_SHARED: Final = (
    "buf/validate/",
    "google/api/",
    "google/longrunning/",
    "google/protobuf/",
    "google/rpc/",
    "google/type/",
    "grpc/",
    "rowcall/",
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A proto file and where it came from."""

    image: str
    """The image's path, "image 2" for bytes, or BUILT_IN."""
    proto: FileDescriptorProto
    """Its descriptor."""

    @property
    def place(self) -> str:
        """For messages: the file and its image."""
        return f"{self.proto.name} ({self.image})"


def is_shared(name: str) -> bool:
    """Whether a file is one that images of different owners have in common: google's, protovalidate's, ours."""
    return name.startswith(_SHARED)


def read_bytes(path: Path, label: str) -> bytes:
    """The content of an image's file.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ImageError([f"{label}: cannot be read ({reason}); name a descriptor image"]) from error


def read_image(data: bytes, label: str) -> list[SourceFile]:
    """The files of one image.

    Raises:
        ImageError: It is no image.
    """
    try:
        files = FileDescriptorSet.FromString(data).file
    except DecodeError as error:
        raise ImageError([f"{label}: is {_looks_like(data)}, not a descriptor image; {HOW_TO_BUILD}"]) from error
    if not files or any(not file.name for file in files):
        raise ImageError([f"{label}: is {_looks_like(data)}, not a descriptor image; {HOW_TO_BUILD}"])
    return [SourceFile(label, file) for file in files]


def built_in(descriptors: Iterable[AnyFileDescriptor]) -> list[SourceFile]:
    """The files of generated modules, with everything they import."""
    found: dict[str, SourceFile] = {}
    waiting: list[AnyFileDescriptor] = list(descriptors)
    while waiting:
        descriptor = waiting.pop()
        if descriptor.name not in found:
            proto = FileDescriptorProto()
            descriptor.CopyToProto(proto)
            found[descriptor.name] = SourceFile(BUILT_IN, proto)
            waiting.extend(descriptor.dependencies)
    return list(found.values())


def merge(common: Iterable[SourceFile], own: Iterable[SourceFile]) -> dict[str, SourceFile]:
    """An image's files with those that it may leave out, one for each name.

    Args:
        common: The built-in ones.
        own: The image's.

    Raises:
        ImageError: The image has different files of one name.
    """
    merged = {file.proto.name: file for file in common}
    problems: list[str] = []
    for file in own:
        name = file.proto.name
        known = merged.setdefault(name, file)
        if known is file or says(known.proto) == says(file.proto):
            continue
        if is_shared(name):
            if declared(file.proto) > declared(known.proto):
                merged[name] = file
        else:
            problems.append(f"{file.image}: has two files {name} that are not the same; {HOW_TO_BUILD}")
    if problems:
        raise ImageError(problems)
    return merged


def identities(files: Mapping[str, SourceFile]) -> dict[str, str]:
    """What tells each of an image's own files from another image's of the same name: 16 hexadecimal digits that are the same
    where the files say the same, and all files that they import do. Of shared files there is one, so they have none.

    Args:
        files: By name, imports included, without circles.
    """
    found: dict[str, str] = {}
    order = graphlib.TopologicalSorter({name: list(file.proto.dependency) for name, file in files.items()})
    for name in order.static_order():
        if not is_shared(name):
            made = hashlib.sha256(says(files[name].proto))
            for imported in files[name].proto.dependency:
                made.update(f"\n{imported} {found.get(imported, '')}".encode())
            found[name] = made.hexdigest()[:16]
    return found


def build_pool(files: Mapping[str, SourceFile]) -> DescriptorPool:
    """A pool of its own with all of the files.

    Raises:
        ImageError: An import is missing, two files define one name, or a file is broken.
    """
    missing = [
        f"{file.place}: imports {name}, which no image has; {HOW_TO_BUILD}"
        for file in files.values()
        for name in file.proto.dependency
        if name not in files
    ]
    if missing:
        raise ImageError(missing)
    twice = _defined_twice(files.values())
    if twice:
        raise ImageError(twice)
    order = graphlib.TopologicalSorter({name: list(file.proto.dependency) for name, file in files.items()})
    pool = DescriptorPool()
    try:
        for name in order.static_order():
            _add(pool, files[name])
    except graphlib.CycleError as error:
        circle = " imports ".join(error.args[1])
        raise ImageError(
            [f"{files[error.args[1][0]].place}: {circle}; no compiler builds that: {HOW_TO_BUILD}"]
        ) from error
    return pool


def _add(pool: DescriptorPool, file: SourceFile) -> None:
    try:
        pool.Add(file.proto)
    except TypeError as error:
        raise ImageError([f"{file.place}: {error}; {HOW_TO_BUILD}"]) from error


def _defined_twice(files: Iterable[SourceFile]) -> list[str]:
    """A line for each name that two files define. The pool refuses it too, but not by naming both."""
    owners: dict[str, SourceFile] = {}
    problems: list[str] = []
    for file in files:
        prefix = f"{file.proto.package}." if file.proto.package else ""
        named: Sequence[str] = [
            *(message.name for message in file.proto.message_type),
            *(enum.name for enum in file.proto.enum_type),
            *(service.name for service in file.proto.service),
            *(extension.name for extension in file.proto.extension),
        ]
        for name in named:
            owner = owners.setdefault(prefix + name, file)
            if owner is not file:
                problems.append(
                    f"{file.place}: {prefix}{name} is defined by {owner.place} too; give one of them another package"
                )
    return problems


def says(file: FileDescriptorProto) -> bytes:
    """What a file means, to compare: without comments, and without options that we have no descriptor of."""
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    copy.ClearField("source_code_info")
    copy.DiscardUnknownFields()
    return copy.SerializeToString(deterministic=True)


def declared(file: FileDescriptorProto) -> int:
    """How much a file declares."""
    return (
        len(file.extension)
        + sum(1 + len(service.method) for service in file.service)
        + sum(1 + len(enum.value) for enum in file.enum_type)
        + sum(_declared_within(message) for message in file.message_type)
    )


def _declared_within(message: DescriptorProto) -> int:
    return (
        1
        + len(message.field)
        + len(message.extension)
        + sum(1 + len(enum.value) for enum in message.enum_type)
        + sum(_declared_within(nested) for nested in message.nested_type)
    )


def _looks_like(data: bytes) -> str:
    """What a file that is no image probably is."""
    start = data[:512].lstrip()
    if not start:
        return "empty"
    if data.startswith(b"\x1f\x8b"):
        return "compressed"
    if start.startswith(b"{"):
        return "JSON"
    if b"syntax" in start or b"edition" in start or start.startswith((b"//", b"package")):
        return "probably proto source"
    return "something else"
