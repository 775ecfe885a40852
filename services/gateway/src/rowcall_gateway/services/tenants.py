"""rowcall.v1.TenantService: what operators do to their tenant, on its shard."""

from __future__ import annotations

from typing import Any

from rowcall.v1.tenant_service_pb2 import (
    PauseTenantRequest,
    PauseTenantResponse,
    ResumeTenantRequest,
    ResumeTenantResponse,
    SetTenantWeightRequest,
    SetTenantWeightResponse,
)
from rowcall.v1.tenant_service_pb2_grpc import TenantServiceServicer
from rowcall.validation import Validator
from rowcall_gateway.edge import incoming
from rowcall_gateway.services.changes import Changes


class Tenants(TenantServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, validator: Validator, changes: Changes) -> None:
        self._validator = validator
        self._changes = changes

    async def PauseTenant(self, request: PauseTenantRequest, context: Any) -> PauseTenantResponse:  # noqa: ARG002, N802
        """Pauses the caller's tenant."""
        self._validator.check(request)
        await self._changes.pause_tenant(incoming.current(), request.name, request.note)
        return PauseTenantResponse()

    async def ResumeTenant(  # noqa: N802
        self,
        request: ResumeTenantRequest,
        context: Any,  # noqa: ARG002
    ) -> ResumeTenantResponse:
        """Ends the pause of the caller's tenant."""
        self._validator.check(request)
        await self._changes.resume_tenant(incoming.current(), request.name)
        return ResumeTenantResponse()

    async def SetTenantWeight(  # noqa: N802
        self,
        request: SetTenantWeightRequest,
        context: Any,  # noqa: ARG002
    ) -> SetTenantWeightResponse:
        """Sets the share of the caller's tenant."""
        self._validator.check(request)
        await self._changes.weigh_tenant(incoming.current(), request.name, request.weight)
        return SetTenantWeightResponse()
