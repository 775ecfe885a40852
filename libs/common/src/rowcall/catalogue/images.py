"""The catalogue of served methods, made from descriptor images. Used by gateway, worker and the command line.

    catalogue = load_catalogue([Path("documents.binpb")])
    method = catalogue.method("/documents.v1.DocumentService/AskDocuments")

Nothing here needs generated code of a job package: messages are of classes made from the image. Each image is loaded by itself,
its types in a pool of its own (`load_image`), and a catalogue is what several serve together (`Catalogue.of`): methods and services by
name; types never, for two images may have two of one name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from google.longrunning import operations_pb2
from google.protobuf import (
    any_pb2,
    api_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    source_context_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import code_pb2, error_details_pb2, status_pb2

from buf.validate import validate_pb2
from rowcall.catalogue.access import Declared
from rowcall.catalogue.clashes import differences
from rowcall.catalogue.errors import ImageError
from rowcall.catalogue.files import (
    BUILT_IN,
    AnyFileDescriptor,
    SourceFile,
    build_pool,
    built_in,
    declared,
    identities,
    is_shared,
    merge,
    read_bytes,
    read_image,
)
from rowcall.catalogue.methods import MethodReader
from rowcall.catalogue.model import JobMethod
from rowcall.catalogue.shapes import Shape, shapes_of
from rowcall.options.v1 import access_pb2
from rowcall.options.v1 import job_pb2 as options_pb2
from rowcall.probe.v1 import probe_pb2
from rowcall.v1 import (
    access_service_pb2,
    action_service_pb2,
    admission_service_pb2,
    audit_service_pb2,
    catalogue_service_pb2,
    error_reason_pb2,
    error_service_pb2,
    job_pb2,
    job_service_pb2,
    queue_service_pb2,
    tenant_service_pb2,
    worker_service_pb2,
)
from rowcall.validation import RulesError, Validator

__all__ = ["Catalogue", "ImageError", "LoadedImage", "load_built_in", "load_catalogue", "load_image"]

COMMON: Final[Sequence[AnyFileDescriptor]] = (
    access_pb2.DESCRIPTOR,
    access_service_pb2.DESCRIPTOR,
    admission_service_pb2.DESCRIPTOR,
    any_pb2.DESCRIPTOR,
    api_pb2.DESCRIPTOR,
    audit_service_pb2.DESCRIPTOR,
    catalogue_service_pb2.DESCRIPTOR,
    code_pb2.DESCRIPTOR,
    descriptor_pb2.DESCRIPTOR,
    duration_pb2.DESCRIPTOR,
    empty_pb2.DESCRIPTOR,
    error_details_pb2.DESCRIPTOR,
    error_reason_pb2.DESCRIPTOR,
    action_service_pb2.DESCRIPTOR,
    error_service_pb2.DESCRIPTOR,
    field_mask_pb2.DESCRIPTOR,
    job_pb2.DESCRIPTOR,
    job_service_pb2.DESCRIPTOR,
    operations_pb2.DESCRIPTOR,
    options_pb2.DESCRIPTOR,
    queue_service_pb2.DESCRIPTOR,
    source_context_pb2.DESCRIPTOR,
    status_pb2.DESCRIPTOR,
    struct_pb2.DESCRIPTOR,
    tenant_service_pb2.DESCRIPTOR,
    worker_service_pb2.DESCRIPTOR,
    timestamp_pb2.DESCRIPTOR,
    type_pb2.DESCRIPTOR,
    validate_pb2.DESCRIPTOR,
    wrappers_pb2.DESCRIPTOR,
)
"""In every pool: what reflection shows of the gateway's own services, and what images may leave out."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedImage:
    """One image: what it serves and the types that it speaks. When nobody has it any more, its pool and its rules are gone."""

    label: str
    """For people: its path, its name, "image 2"; BUILT_IN."""
    digest: str
    """SHA-256 of its bytes, 64 hexadecimal digits; empty for what is built in."""
    methods: Mapping[str, JobMethod]
    """By name, "package.Service/Method"."""
    access: Mapping[str, Declared]
    """What it says of who may call each of them."""
    pool: DescriptorPool
    """Its files, and those that it may leave out. No other image's."""
    files: Sequence[str]
    """The names of the pool's files."""
    identities: Mapping[str, str]
    """By name of a file that is the image's own: see `files.identities`."""
    sizes: Mapping[str, int]
    """By name of a shared file: how much it declares. They only ever grow."""
    warnings: Sequence[str]
    """What is probably not meant."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The job methods that are served, and the images that they are of."""

    images: Sequence[LoadedImage]
    """What is built in first, then the others as they were given."""
    methods: Mapping[str, JobMethod]
    """By name, "package.Service/Method"."""
    services: Mapping[str, LoadedImage]
    """By full name: the image that each service of a served method is described by."""
    access: Mapping[str, Declared]
    """What the images say of who may call each method, by its name: see `rowcall.catalogue.grants`."""
    validator: Validator = field(default_factory=Validator)
    """For messages of our own services. For a method's requests there is `JobMethod.validator`."""

    @classmethod
    def of(cls, images: Sequence[LoadedImage]) -> Self:
        """What some images serve together.

        Args:
            images: What is built in first.

        Raises:
            ImageError: Two define one method differently; each is named with both images and what differs.
        """
        methods: dict[str, JobMethod] = {}
        access: dict[str, Declared] = {}
        owners: dict[str, LoadedImage] = {}
        problems: list[str] = []
        for image in images:
            for name, method in image.methods.items():
                owner = owners.setdefault(name, image)
                if owner is image:
                    methods[name], access[name] = method, image.access[name]
                elif not is_shared(_file(method)):
                    # What is shared only ever grows, and what is built in stays as it is.
                    differing = differences(owner.methods[name], method, owner.access[name], image.access[name])
                    if differing:
                        problems.append(
                            f"{image.label}: method {name} is not the one of {owner.label}: they differ in "
                            f"{', '.join(differing)}; build both images from the same sources, or leave it out of one of them"
                        )
        if problems:
            raise ImageError(problems)
        return cls(
            images=tuple(images),
            methods=MappingProxyType(methods),
            services=MappingProxyType(_described_by(images, methods)),
            access=MappingProxyType(access),
        )

    @property
    def pool(self) -> DescriptorPool:
        """Where the types of our own services are, and whatever else is built in; nothing of an image's."""
        return self.images[0].pool

    @property
    def warnings(self) -> Sequence[str]:
        """What is probably not meant, for the log of whoever loads the images."""
        return tuple(dict.fromkeys(warning for image in self.images for warning in image.warnings))

    def method(self, name: str) -> JobMethod | None:
        """The job method of a name ("package.Service/Method") or of an RPC's path, with a "/" in front."""
        return self.methods.get(name.removeprefix("/"))

    def shapes(self) -> Sequence[Mapping[str, Shape]]:
        """What shards must know of every message of every image to compare requests, by full name: once, and then what other
        images say otherwise of types of the same names. A shard puts together what it is told."""
        layers: list[dict[str, Shape]] = [{}]
        for image in self.images:
            for name, shape in shapes_of(image.pool, image.files).items():
                for layer in layers:
                    if layer.setdefault(name, shape) == shape:
                        break
                else:
                    layers.append({name: shape})
        return layers

    @property
    def service_names(self) -> Sequence[str]:
        """The full names of the services that have a job method, in order."""
        return sorted(self.services)


def load_catalogue(
    images: Sequence[Path | bytes] = (),
    *,
    builtin: bool = True,
    reflected: Iterable[AnyFileDescriptor] = (),
    compiled: bool = True,
) -> Catalogue:
    """Reads descriptor images into one catalogue.

    Args:
        images: Files, or their contents, as `buf build -o` and `protoc --include_imports --descriptor_set_out` write
            them. They may bring google's, protovalidate's and our own files along; the same file twice is fine, and two of one
            name too, where no method is served of both.
        builtin: Whether rowcall.probe.v1.ProbeService is served.
        reflected: Further files for the built-in pool: services that a server adds beside the catalogue's (health, reflection).
        compiled: Whether the rules of every method's request are compiled now, and refused if they cannot be.

    Raises:
        ImageError: The images cannot be served; every problem found is named with its file, method and field.
    """
    loaded = [load_built_in(builtin=builtin, reflected=reflected)]
    problems: list[str] = []
    for number, image in enumerate(images, start=1):
        label = f"image {number}" if isinstance(image, bytes) else str(image)
        try:
            loaded.append(load_image(image, label, compiled=compiled))
        except ImageError as error:
            problems += error.problems
    if problems:
        raise ImageError(problems)
    return Catalogue.of(loaded)


def load_built_in(*, builtin: bool = True, reflected: Iterable[AnyFileDescriptor] = ()) -> LoadedImage:
    """What every catalogue begins with: our own services, and what images may leave out. See `load_catalogue`."""
    files = built_in([*COMMON, *reflected, *([probe_pb2.DESCRIPTOR] if builtin else [])])
    return _load({file.proto.name: file for file in files}, BUILT_IN, digest="", compiled=False)


def load_image(image: Path | bytes, label: str, *, compiled: bool = True) -> LoadedImage:
    """Reads one image, by itself.

    Args:
        image: A file, or its contents.
        label: What messages call it.
        compiled: As for `load_catalogue`.

    Raises:
        ImageError: It cannot be served, whatever else is.
    """
    if not isinstance(image, bytes):
        image = read_bytes(image, label)
    files = merge(built_in(COMMON), read_image(image, label))
    return _load(files, label, digest=hashlib.sha256(image).hexdigest(), compiled=compiled)


def _load(files: Mapping[str, SourceFile], label: str, *, digest: str, compiled: bool) -> LoadedImage:
    pool = build_pool(files)
    validator = Validator()
    reader = MethodReader(pool, validator)
    reader.read(file for file in files.values() if not digest or file.image != BUILT_IN)
    problems = [*reader.problems, *(_prepare(validator, reader.methods) if compiled else ())]
    if problems:
        raise ImageError(problems)
    return LoadedImage(
        label=label,
        digest=digest,
        methods=MappingProxyType({method.name: method for method in reader.methods}),
        access=MappingProxyType(reader.access),
        pool=pool,
        files=tuple(files),
        identities=MappingProxyType(identities(files)),
        sizes=MappingProxyType({name: declared(file.proto) for name, file in files.items() if is_shared(name)}),
        warnings=tuple(reader.warnings),
    )


def _file(method: JobMethod) -> str:
    """The name of the file that declares a method."""
    service = method.request_class.DESCRIPTOR.file.pool.FindServiceByName(method.name.partition("/")[0])
    return service.file.name


def _described_by(images: Sequence[LoadedImage], methods: Iterable[str]) -> dict[str, LoadedImage]:
    """By service: the image that has the most of its served methods, the first of those."""
    served: dict[str, LoadedImage] = {}
    names = {name.partition("/")[0] for name in methods}
    having = {image: Counter(method.partition("/")[0] for method in image.methods) for image in images}
    for name in sorted(names):
        served[name] = max(images, key=lambda image: having[image][name])
    return served


def _prepare(validator: Validator, methods: Iterable[JobMethod]) -> list[str]:
    """Compiles the rules of every request; a line for each type whose rules are broken."""
    problems: dict[str, None] = {}
    for method in methods:
        try:
            validator.prepare(method.request_class)
        except RulesError as error:
            file = method.request_class.DESCRIPTOR.file.name
            problems[f"{file}: method {method.name}: {error}; mend the expression and build the image again"] = None
    return list(problems)
