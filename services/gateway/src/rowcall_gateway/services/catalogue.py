"""rowcall.v1.CatalogueService: what operators do to the methods that are served."""

from __future__ import annotations

from typing import Any

from rowcall.v1.catalogue_service_pb2 import (
    PauseMethodRequest,
    PauseMethodResponse,
    ResumeMethodRequest,
    ResumeMethodResponse,
)
from rowcall.v1.catalogue_service_pb2_grpc import CatalogueServiceServicer
from rowcall.validation import Validator
from rowcall_gateway.edge import incoming
from rowcall_gateway.services.changes import Changes


class Methods(CatalogueServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, validator: Validator, changes: Changes) -> None:
        self._validator = validator
        self._changes = changes

    async def PauseMethod(self, request: PauseMethodRequest, context: Any) -> PauseMethodResponse:  # noqa: ARG002, N802
        """Pauses a method on every shard."""
        self._validator.check(request)
        await self._changes.pause(incoming.current(), "method", request.name.removeprefix("/"), request.note)
        return PauseMethodResponse()

    async def ResumeMethod(  # noqa: N802
        self,
        request: ResumeMethodRequest,
        context: Any,  # noqa: ARG002
    ) -> ResumeMethodResponse:
        """Ends a method's pause on every shard."""
        self._validator.check(request)
        await self._changes.resume(incoming.current(), "method", request.name.removeprefix("/"))
        return ResumeMethodResponse()
