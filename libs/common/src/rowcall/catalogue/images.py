"""The catalogue of served methods, made from descriptor images. Used by gateway, worker and the command line.

    catalogue = load_catalogue([Path("documents.binpb")])
    method = catalogue.method("/documents.v1.DocumentService/AskDocuments")

Nothing here needs generated code of a job package: messages are of classes made from the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

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
from rowcall.catalogue.errors import ImageError
from rowcall.catalogue.files import AnyFileDescriptor, SourceFile, build_pool, built_in, merge, read_image
from rowcall.catalogue.methods import MethodReader
from rowcall.catalogue.model import JobMethod
from rowcall.catalogue.shapes import Shape, shapes_of
from rowcall.options.v1 import access_pb2
from rowcall.options.v1 import job_pb2 as options_pb2
from rowcall.probe.v1 import probe_pb2
from rowcall.v1 import (
    access_service_pb2,
    admission_service_pb2,
    audit_service_pb2,
    catalogue_service_pb2,
    error_reason_pb2,
    error_service_pb2,
    job_pb2,
    job_service_pb2,
    queue_service_pb2,
    tenant_service_pb2,
)
from rowcall.validation import RulesError, Validator

__all__ = ["Catalogue", "ImageError", "load_catalogue"]

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
    timestamp_pb2.DESCRIPTOR,
    type_pb2.DESCRIPTOR,
    validate_pb2.DESCRIPTOR,
    wrappers_pb2.DESCRIPTOR,
)
"""In every pool: what reflection shows of the gateway's own services, and what images may leave out."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The job methods that are served, and the types that they speak."""

    methods: Mapping[str, JobMethod]
    """By name, "package.Service/Method"."""
    pool: DescriptorPool
    """Every file of the images and of the gateway's own services: what reflection serves."""
    validator: Validator
    """With the rules of every method's request compiled, if that was asked for; else with their first use."""
    warnings: Sequence[str]
    """What is probably not meant, for the log of whoever loads the images."""
    files: Sequence[str]
    """The names of the pool's files."""
    access: Mapping[str, Declared]
    """What the images say of who may call each method, by its name: see `rowcall.catalogue.grants`."""

    def method(self, name: str) -> JobMethod | None:
        """The job method of a name ("package.Service/Method") or of an RPC's path, with a "/" in front."""
        return self.methods.get(name.removeprefix("/"))

    def shapes(self) -> Mapping[str, Shape]:
        """What shards must know of every message in the pool, by full name, to compare requests."""
        return shapes_of(self.pool, self.files)

    @property
    def service_names(self) -> Sequence[str]:
        """The full names of the services that have a job method, in order."""
        return sorted({name.partition("/")[0] for name in self.methods})


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
            them. They may bring google's, protovalidate's and our own files along; the same file twice is fine.
        builtin: Whether rowcall.probe.v1.ProbeService is served.
        reflected: Further files for the pool: services that a server adds beside the catalogue's (health, reflection).
        compiled: Whether the rules of every method's request are compiled now, and refused if they cannot be.

    Raises:
        ImageError: The images cannot be served; every problem found is named with its file, method and field.
    """
    common = built_in([*COMMON, *reflected, *([probe_pb2.DESCRIPTOR] if builtin else [])])
    given: list[SourceFile] = []
    for number, image in enumerate(images, start=1):
        given.extend(read_image(image, f"image {number}" if isinstance(image, bytes) else str(image)))
    files = merge([*common, *given])
    pool = build_pool(files)
    reader = MethodReader(pool)
    reader.read(files.values())
    validator = Validator()
    problems = [*reader.problems, *(_prepare(validator, reader.methods) if compiled else ())]
    if problems:
        raise ImageError(problems)
    return Catalogue(
        methods=MappingProxyType({method.name: method for method in reader.methods}),
        pool=pool,
        validator=validator,
        warnings=tuple(reader.warnings),
        files=tuple(files),
        access=MappingProxyType(reader.access),
    )


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
