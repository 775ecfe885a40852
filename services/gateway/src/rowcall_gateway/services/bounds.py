"""rowcall.v1.AdmissionService: how much is let in, set by admins."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from google.protobuf.duration_pb2 import Duration

from rowcall import bounds as values
from rowcall.bounds import EACH_TENANT, Target
from rowcall.errors import RowcallError
from rowcall.names import tenant_name
from rowcall.queue.spend import CURRENCIES, plain
from rowcall.security.roles import ADMIN
from rowcall.sharding.bounds import Bounds as KeptBounds
from rowcall.v1.admission_service_pb2 import (
    Bound,
    BoundTarget,
    Budget,
    BudgetPeriod,
    DeleteBoundRequest,
    DeleteBoundResponse,
    GetBoundRequest,
    GetBoundResponse,
    ListBoundsRequest,
    ListBoundsResponse,
    SetBoundRequest,
    SetBoundResponse,
)
from rowcall.v1.admission_service_pb2_grpc import AdmissionServiceServicer
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.validation import Validator
from rowcall_gateway.admission.known import KnownBounds
from rowcall_gateway.admission.refusals import described
from rowcall_gateway.calls.drafts import check_text, invalid
from rowcall_gateway.edge import incoming
from rowcall_gateway.resources import timestamp

_EVERYBODY_S = ("", EACH_TENANT)


class Bounds(AdmissionServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, validator: Validator, kept: KeptBounds, known: KnownBounds) -> None:
        """
        Args:
            validator: Of requests.
            kept: The catalogue's.
            known: What this gateway goes by.
        """
        self._validator = validator
        self._kept = kept
        self._known = known

    async def ListBounds(self, request: ListBoundsRequest, context: Any) -> ListBoundsResponse:  # noqa: ARG002, N802
        """The bounds, of other tenants only for admins."""
        self._validator.check(request)
        principal = incoming.current().principal
        found = await self._all()
        if not principal.has_role({ADMIN}):
            found = [bound for bound in found if bound.target.tenant in (*_EVERYBODY_S, principal.tenant)]
        return ListBoundsResponse(bounds=[_shown(bound) for bound in sorted(found, key=lambda bound: bound.target)])

    async def GetBound(self, request: GetBoundRequest, context: Any) -> GetBoundResponse:  # noqa: ARG002, N802
        """One bound."""
        self._validator.check(request)
        target = _target(request.target)
        for bound in await self._all():
            if bound.target == target:
                return GetBoundResponse(bound=_shown(bound))
        raise RowcallError(
            ErrorReason.ERROR_REASON_NOT_KNOWN,
            "There is no bound of just that. ListBounds has them all.",
            metadata={"name": described(target)},
        )

    async def SetBound(self, request: SetBoundRequest, context: Any) -> SetBoundResponse:  # noqa: ARG002, N802
        """Sets a bound: here at once, at the other gateways within two seconds."""
        self._validator.check(request)
        wanted = request.bound
        target = _target(wanted.target)
        check_text(wanted.note, "bound.note")
        bound = await self._kept.set(
            target,
            rate=wanted.rate if wanted.HasField("rate") else None,
            in_flight=wanted.in_flight if wanted.HasField("in_flight") else None,
            waiters=wanted.waiters if wanted.HasField("waiters") else None,
            backlog=wanted.backlog if wanted.HasField("backlog") else None,
            oldest_age=_timedelta(wanted.oldest_age) if wanted.HasField("oldest_age") else None,
            budget=_budget(wanted.budget) if wanted.HasField("budget") else None,
            by=incoming.current().principal.actor,
            note=wanted.note or None,
            act=incoming.current().act,
        )
        await self._known.look()
        return SetBoundResponse(bound=_shown(bound))

    async def DeleteBound(self, request: DeleteBoundRequest, context: Any) -> DeleteBoundResponse:  # noqa: ARG002, N802
        """Takes a bound away, likewise."""
        self._validator.check(request)
        target = _target(request.target)
        if any(bound.target == target for bound in await self._all()):
            call = incoming.current()
            await self._kept.set(target, by=call.principal.actor, note=None, act=call.act)
            await self._known.look()
        return DeleteBoundResponse()

    async def _all(self) -> list[values.Bound]:
        return [bound for bound in await self._kept.since(0) if bound.bounds]


def _target(target: BoundTarget) -> Target:
    check_text(target.queue, "target.queue")
    return Target(target.tenant.removeprefix("tenants/"), target.queue, target.method)


def _timedelta(duration: Duration) -> timedelta:
    # Within its bounds: the rules have been looked at.
    return duration.ToTimedelta()


def _budget(budget: Budget) -> values.Budget:
    if budget.currency not in CURRENCIES:
        raise invalid("bound.budget.currency", "is no currency of ISO 4217")
    return values.Budget(Decimal(budget.amount), budget.currency, values.BudgetPeriod(budget.period))


def _shown(bound: values.Bound) -> Bound:
    target = bound.target
    shown = Bound(
        target=BoundTarget(
            tenant=tenant_name(target.tenant) if target.tenant else "", queue=target.queue, method=target.method
        ),
        rate=bound.rate,
        in_flight=bound.in_flight,
        waiters=bound.waiters,
        backlog=bound.backlog,
        note=bound.note or "",
        actor=bound.actor or "",
        update_time=timestamp(bound.updated_at),
    )
    if bound.oldest_age is not None:
        shown.oldest_age.FromTimedelta(bound.oldest_age)
    if bound.budget is not None:
        amount, currency, period = bound.budget
        shown.budget.CopyFrom(Budget(amount=plain(amount), currency=currency, period=BudgetPeriod.ValueType(period)))
    return shown
