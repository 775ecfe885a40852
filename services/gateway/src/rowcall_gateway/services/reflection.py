"""grpc.reflection.v1alpha.ServerReflection: what is served, described to clients that have no protos at hand.

Each service is described by the image that it is served from. On one stream, what is asked for behind a service is looked for in
that image first: two images may have different types of one name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from grpc_reflection.v1alpha.reflection_pb2 import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionServicer

from rowcall.catalogue.described import DescribedFiles
from rowcall.catalogue.images import LoadedImage


class Reflection(ServerReflectionServicer):
    """The servicer. Methods have gRPC's names."""

    def __init__(self, described: Callable[[], DescribedFiles], services: Callable[[], Sequence[str]]) -> None:
        """
        Args:
            described: The files of what is served now.
            services: The full names of what is served now.
        """
        self._described = described
        self._services = services

    async def ServerReflectionInfo(  # noqa: N802
        self,
        request_iterator: AsyncIterator[ServerReflectionRequest],
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[ServerReflectionResponse]:
        """Answers one request after another."""
        image: LoadedImage | None = None
        async for request in request_iterator:
            described = self._described()
            image = described.service_of(request.file_containing_symbol) or image
            response = self._answer(described, request, image)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            yield response

    def _answer(
        self, described: DescribedFiles, request: ServerReflectionRequest, image: LoadedImage | None
    ) -> ServerReflectionResponse:
        kind = request.WhichOneof("message_request")
        extension = request.file_containing_extension
        if kind == "list_services":
            names = sorted(self._services())
            response = ServerReflectionResponse(
                list_services_response=ListServiceResponse(service=[ServiceResponse(name=name) for name in names])
            )
        elif kind == "file_by_filename":
            response = _files(described.by_name(request.file_by_filename))
        elif kind == "file_containing_symbol":
            response = _files(described.by_symbol(request.file_containing_symbol, image))
        elif kind == "file_containing_extension":
            response = _files(described.by_extension(extension.containing_type, extension.extension_number, image))
        elif kind == "all_extension_numbers_of_type":
            name = request.all_extension_numbers_of_type
            numbers = described.extension_numbers(name)
            found = ExtensionNumberResponse(base_type_name=name, extension_number=numbers)
            response = (
                _error(grpc.StatusCode.NOT_FOUND, "not found")
                if numbers is None
                else ServerReflectionResponse(all_extension_numbers_response=found)
            )
        else:
            response = _error(grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
        return response


def _files(files: Sequence[bytes] | None) -> ServerReflectionResponse:
    if files is None:
        return _error(grpc.StatusCode.NOT_FOUND, "not found")
    return ServerReflectionResponse(file_descriptor_response=FileDescriptorResponse(file_descriptor_proto=files))


def _error(code: grpc.StatusCode, message: str) -> ServerReflectionResponse:
    return ServerReflectionResponse(error_response=ErrorResponse(error_code=code.value[0], error_message=message))
