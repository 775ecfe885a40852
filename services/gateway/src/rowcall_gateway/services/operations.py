"""google.longrunning.Operations: every job is an operation, of whatever method."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from google.longrunning.operations_pb2 import (
    CancelOperationRequest,
    DeleteOperationRequest,
    GetOperationRequest,
    ListOperationsRequest,
    ListOperationsResponse,
    Operation,
    WaitOperationRequest,
)
from google.longrunning.operations_pb2_grpc import OperationsServicer
from google.protobuf.empty_pb2 import Empty
from google.rpc.error_details_pb2 import BadRequest

from rowcall.errors import RowcallError
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.deadlines import Budget
from rowcall_gateway.edge.failures import not_found
from rowcall_gateway.edge.identity import tenant_required
from rowcall_gateway.resources import Resources
from rowcall_gateway.services.disclosures import Disclosures
from rowcall_gateway.services.listing import Filter, read_page
from rowcall_gateway.services.reading import JobReader, call_for
from rowcall_gateway.shards.waiters import UNHINTED, Slots


class Operations(OperationsServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, reader: JobReader, resources: Resources, slots: Slots, *, max_call_wait: timedelta) -> None:
        self._reader = reader
        self._shown = Disclosures(resources)
        self._slots = slots
        self._max_call_wait = max_call_wait

    async def GetOperation(self, request: GetOperationRequest, context: Any) -> Operation:  # noqa: ARG002, N802
        """An operation as it stands."""
        call = call_for(request.name)
        place = await self._reader.place(call, request.name)
        return await self._shown.operation(call, place.link, await place.row(response=True))

    async def ListOperations(  # noqa: N802
        self,
        request: ListOperationsRequest,
        context: Any,  # noqa: ARG002
    ) -> ListOperationsResponse:
        """The caller's operations, newest first. The name is the tenant's ("tenants/{tenant}"), or empty."""
        call = call_for(request.name)
        if not call.tenant:
            raise tenant_required()
        parent = request.name.removesuffix("/operations")
        if parent not in ("", "operations", f"tenants/{call.tenant}"):
            if parent.startswith("tenants/") and parent.count("/") == 1:
                raise not_found(request.name)
            raise RowcallError(
                ErrorReason.ERROR_REASON_INVALID_NAME,
                "Operations are listed by tenant: the name is tenants/{tenant}, or empty.",
                metadata={"name": request.name},
            )
        if request.page_size < 0:
            violation = BadRequest.FieldViolation(field="page_size", description="is negative")
            raise RowcallError(
                ErrorReason.ERROR_REASON_INVALID_REQUEST,
                "page_size is negative; 0 leaves it to the gateway.",
                details=[BadRequest(field_violations=[violation])],
            )
        wanted = Filter.parse(request.filter)
        link = await self._reader.link(call)
        if link is None:
            return ListOperationsResponse()
        page = await read_page(link.store, call.tenant, wanted, size=request.page_size, token=request.page_token)
        return ListOperationsResponse(
            operations=await self._shown.operations(call, link, page.rows),
            next_page_token=page.next_token,
        )

    async def CancelOperation(self, request: CancelOperationRequest, context: Any) -> Empty:  # noqa: ARG002, N802
        """Cancels a job that waits, marks one that runs, and leaves a finished one as it is."""
        call = call_for(request.name)
        place = await self._reader.place(call, request.name)
        await place.cancel(call.act)
        return Empty()

    async def DeleteOperation(self, request: DeleteOperationRequest, context: Any) -> Empty:  # noqa: ARG002, N802
        """Erases a finished job with its request and answer; its key stays until it expires."""
        call = call_for(request.name)
        place = await self._reader.place(call, request.name)
        await place.delete(call.act)
        return Empty()

    async def WaitOperation(self, request: WaitOperationRequest, context: Any) -> Operation:  # noqa: ARG002, N802
        """Waits until an operation is done, at most for the shorter of its timeout and the call's own time."""
        call = call_for(request.name)
        place = await self._reader.place(call, request.name)
        row = await place.row(response=True)
        if row.done:
            return await self._shown.operation(call, place.link, row)
        budget = Budget.of(
            asyncio.get_running_loop().time(),
            call.remaining(),
            max_call_wait=self._max_call_wait,
            wait=_timeout(request),
        )
        with self._slots.take(), place.link.waiters.wait(place.key, pace=UNHINTED) as waiting:
            await waiting.until(budget.wait_until)
            waiting.answer()
        return await self._shown.operation(call, place.link, await place.row(response=True))


def _timeout(request: WaitOperationRequest) -> timedelta | None:
    if not request.HasField("timeout"):
        return None
    try:
        return max(request.timeout.ToTimedelta(), timedelta(0))
    except (ValueError, OverflowError):
        # Longer than Python can say is longer than any call may wait.
        return None
