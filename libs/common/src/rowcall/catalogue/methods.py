"""The job methods of a set of files: every method with the option rowcall.options.v1.job.

Used by `rowcall.catalogue.images` alone. What is wrong is collected, so that one start shows all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.longrunning.operations_pb2 import Operation, operation_info
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import MethodDescriptorProto, MethodOptions, ServiceDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from rowcall.catalogue.access import AccessReader, Declared, Source
from rowcall.catalogue.files import BUILT_IN, SourceFile, is_shared
from rowcall.catalogue.inert import InertOptions
from rowcall.catalogue.model import JobMethod
from rowcall.catalogue.policy import PolicyError, resolve
from rowcall.options.v1.job_pb2 import JobOptions, job
from rowcall.v1.job_pb2 import JobMetadata
from rowcall.validation import Validator

OPTION: Final = "option (rowcall.options.v1.job)"
OPERATION_INFO: Final = "option (google.longrunning.operation_info)"

_OPERATION: Final = Operation.DESCRIPTOR.full_name
_METADATA: Final = JobMetadata.DESCRIPTOR.full_name
_RESERVED: Final = (
    "google.longrunning",
    "grpc.health.v1",
    "grpc.reflection.v1",
    "grpc.reflection.v1alpha",
    "rowcall.v1",
)


class MethodReader:
    """Reads job methods out of files that are in one pool."""

    problems: list[str]
    """What keeps the images from being served."""
    warnings: list[str]
    """What is probably not meant."""
    methods: list[JobMethod]
    """What was found."""
    access: dict[str, Declared]
    """What the images say of who may call each of them."""

    def __init__(self, pool: DescriptorPool, validator: Validator) -> None:
        """
        Args:
            pool: Where the files are, with all that they import.
            validator: For the rules of its types.
        """
        self.problems = []
        self.warnings = []
        self.methods = []
        self.access = {}
        self._pool = pool
        self._validator = validator
        self._inert = InertOptions(pool)
        self._rules = AccessReader(self._inert)

    def read(self, files: Iterable[SourceFile]) -> None:
        """Reads the job methods of every service in the files."""
        rules: dict[str, Declared] = {}
        for file in files:
            if not is_shared(file.proto.name):
                # The rules of services that are ours are ours, whatever an image's copy of their files says.
                self.problems.extend(self._inert.on(file))
                rules.update(self._rules.read(file))
            for service in file.proto.service:
                self._read_service(file, service)
        self.problems.extend(self._rules.problems)
        for method in self.methods:
            unsaid = Declared(None, Source.NONE, f"method {method.name}")
            self.access[method.name] = rules.get(method.name, unsaid)

    def _read_service(self, file: SourceFile, service: ServiceDescriptorProto) -> None:
        prefix = f"{file.proto.package}." if file.proto.package else ""
        jobs = [method for method in service.method if method.options.HasExtension(job)]
        if jobs and file.proto.package in _RESERVED:
            self.problems.append(
                f"{file.place}: service {prefix}{service.name}: the package is the gateway's own; move the service to "
                "another"
            )
            return
        if not jobs and not is_shared(file.proto.name) and file.image != BUILT_IN:
            self.warnings.append(
                f"{file.place}: service {prefix}{service.name}: no method has {OPTION}, so none is served; set it to {{}} "
                "on those that are job types"
            )
        for method in jobs:
            self._read_method(file, prefix, service.name, method)

    def _read_method(self, file: SourceFile, prefix: str, service: str, method: MethodDescriptorProto) -> None:
        name = f"{prefix}{service}/{method.name}"
        place = f"{file.place}: method {name}"
        if method.client_streaming or method.server_streaming:
            self.problems.append(
                f"{place}: streams, which a job cannot: it is one request and one answer; drop `stream` or {OPTION}"
            )
            return
        options = method.options.Extensions[job]
        returns_operation = method.output_type.removeprefix(".") == _OPERATION
        response = self._response(file.proto.package, method, place, returns_operation=returns_operation)
        self._warn(place, method.options, options, returns_operation=returns_operation)
        inert = self._inert.within(place, OPTION, options)
        self.problems.extend(inert)
        try:
            policy = resolve(options)
        except PolicyError as error:
            self.problems.extend(f"{place}: {OPTION}.{problem}" for problem in error.problems)
            return
        if response is None or inert:
            return
        request = self._pool.FindMessageTypeByName(method.input_type.removeprefix("."))
        self.methods.append(
            JobMethod(
                name=name,
                request_class=message_factory.GetMessageClass(request),
                response_class=message_factory.GetMessageClass(response),
                returns_operation=returns_operation,
                has_request_id=_has_request_id(request),
                policy=policy,
                validator=self._validator,
            )
        )

    def _response(
        self, package: str, method: MethodDescriptorProto, place: str, *, returns_operation: bool
    ) -> Descriptor | None:
        """The type that a job answers with; None, and a problem, if that is not known."""
        if not returns_operation:
            return self._pool.FindMessageTypeByName(method.output_type.removeprefix("."))
        info = method.options.Extensions[operation_info]
        if not info.response_type:
            self.problems.append(
                f"{place}: returns {_OPERATION} and does not say of what; set {OPERATION_INFO}.response_type to the type "
                "of the answer"
            )
            return None
        response = self._find(package, info.response_type)
        if response is None:
            self.problems.append(
                f"{place}: {OPERATION_INFO}.response_type: the images have no message {info.response_type!r}, neither in "
                f"package {package!r} nor by its full name; import its file, and outside of the package name it in full"
            )
        elif response.full_name == _OPERATION:
            self.problems.append(
                f"{place}: {OPERATION_INFO}.response_type: an operation cannot answer with another; name the answer's type"
            )
            return None
        return response

    def _find(self, package: str, name: str) -> Descriptor | None:
        """A message by its name in a package or its full name, as the comment of operation_info has it."""
        for full_name in (f"{package}.{name}" if package else name, name.removeprefix(".")):
            try:
                return self._pool.FindMessageTypeByName(full_name)
            except KeyError:
                continue
        return None

    def _warn(self, place: str, all_options: MethodOptions, options: JobOptions, *, returns_operation: bool) -> None:
        if all_options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
            self.warnings.append(
                f"{place}: idempotency_level = NO_SIDE_EFFECTS: a plain read does not belong in a durable queue; serve it "
                f"directly, and drop {OPTION}"
            )
        if options.HasField("wait") and not returns_operation:
            self.warnings.append(
                f"{place}: {OPTION}.wait: only a method that returns {_OPERATION} has one; this one waits until the "
                "call's deadline"
            )
        metadata_type = all_options.Extensions[operation_info].metadata_type
        if returns_operation and metadata_type and metadata_type.removeprefix(".") != _METADATA:
            self.warnings.append(
                f"{place}: {OPERATION_INFO}.metadata_type: operations carry {_METADATA}, not {metadata_type}; name that"
            )


def _has_request_id(request: Descriptor) -> bool:
    field = request.fields_by_name.get("request_id")
    return field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated
