"""What calls of models and providers cost, in sums; of one tenant, or, for admins, of all. Called by `traces`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final
from uuid import UUID

from rowcall.errors import RowcallError
from rowcall.names import parse_tenant_name, tenant_name
from rowcall.queue.spend import SpendBy, SpendFilter, plain
from rowcall.queue.spend import SpendSum as Sum
from rowcall.security.roles import ADMIN
from rowcall.v1.action_service_pb2 import GetSpendRequest, GetSpendResponse, SpendDimension, SpendSum
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.calls.drafts import check_text
from rowcall_gateway.edge.failures import not_known
from rowcall_gateway.edge.identity import tenant_required
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.services.filters import invalid_filter, method_name
from rowcall_gateway.services.reading import JobReader, call_for, own_key
from rowcall_gateway.shards.everywhere import Answers, ask_everywhere
from rowcall_gateway.shards.links import Links, ShardLink

MOST: Final = 1000
"""Sums of one answer; action_service.proto says so."""

ALL_TENANTS: Final = "tenants/-"

_BY: Final = {
    SpendDimension.SPEND_DIMENSION_TENANT: SpendBy.TENANT,
    SpendDimension.SPEND_DIMENSION_DAY: SpendBy.DAY,
    SpendDimension.SPEND_DIMENSION_METHOD: SpendBy.METHOD,
    SpendDimension.SPEND_DIMENSION_PROVIDER: SpendBy.PROVIDER,
    SpendDimension.SPEND_DIMENSION_MODEL: SpendBy.MODEL,
}


class Spending:
    """Answers what was spent."""

    def __init__(self, reader: JobReader, links: Links) -> None:
        """
        Args:
            reader: Knows where the caller's tenant lives.
            links: The shards.
        """
        self._reader = reader
        self._links = links

    async def sums(self, request: GetSpendRequest) -> GetSpendResponse:
        """What calls cost, in sums. The request's own rules were checked before.

        Raises:
            RowcallError: INVALID_FILTER, INVALID_REQUEST, INVALID_NAME, JOB_NOT_FOUND, NOT_KNOWN, MISSING_ROLE, TENANT_REQUIRED, or
                no shard answers.
        """
        call = call_for(request.operation or request.parent)
        tenant = _tenant(call, request)
        wanted = _filter(call, request, tenant)
        by = [_BY[each] for each in request.group_by]
        links: Sequence[ShardLink] = list(self._links)
        if tenant is not None:
            link = await self._reader.link(call)
            if link is None:
                return GetSpendResponse()
            links = [link]
        answers: Answers[list[Sum]] = await ask_everywhere(
            links, lambda link: link.admin.spend(wanted, by, limit=MOST + 1), call
        )
        if not answers.given:
            raise answers.unreachable()
        sums = _merged(answers.given.values())
        return GetSpendResponse(
            sums=[_shown(each) for each in sums[:MOST]],
            more=any(len(each) > MOST for each in answers.given.values()) or len(sums) > MOST,
            unreachable_shards=sorted(answers.missing),
        )


def _tenant(call: IncomingCall, request: GetSpendRequest) -> str | None:
    """Whose calls are asked for; None: everybody's.

    Raises:
        RowcallError: INVALID_NAME, NOT_KNOWN, MISSING_ROLE, TENANT_REQUIRED.
    """
    parent = request.parent
    if parent == ALL_TENANTS and not request.operation:
        if not call.principal.has_role((ADMIN,)):
            raise RowcallError(
                ErrorReason.ERROR_REASON_MISSING_ROLE,
                "What all tenants spend is for callers with the role admin; leave parent out for your own tenant.",
                metadata={"method": "rowcall.v1.ActionService/GetSpend", "roles": ADMIN},
            )
        return None
    if parent and parse_tenant_name(parent) is None:
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_NAME,
            "The parent is that of no spend: it is tenants/{tenant}, empty for the caller's own, or tenants/- for admins; an operation "
            "is in its own tenant.",
            metadata={"name": parent},
        )
    if not call.tenant:
        raise tenant_required()
    if parent not in ("", tenant_name(call.tenant)):
        raise not_known("tenant", parent)
    return call.tenant


def _filter(call: IncomingCall, request: GetSpendRequest, tenant: str | None) -> SpendFilter:
    """What of it. Raises RowcallError: INVALID_FILTER, INVALID_REQUEST, INVALID_NAME, JOB_NOT_FOUND."""
    check_text(request.provider, "provider")
    check_text(request.model, "model")
    first, last = _day(request.first_day, "first_day"), _day(request.last_day, "last_day")
    if first is not None and last is not None and first > last:
        raise invalid_filter("last_day", "is before first_day")
    return SpendFilter(
        tenant,
        first,
        last,
        job_id=own_key(call, request.operation)[1] if request.operation else None,
        trace_id=UUID(request.trace_id) if request.trace_id else None,
        method=method_name(request.method, "method"),
        provider=request.provider or None,
        model=request.model or None,
    )


def _day(text: str, field: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise invalid_filter(field, "is no day; write 2031-05-04") from None


def _merged(found: Iterable[Iterable[Sum]]) -> list[Sum]:
    """Of several shards: what is alike once, the dearest of each currency first."""
    sums: dict[tuple[object, ...], Sum] = {}
    for each in (one for part in found for one in part):
        key = (each.tenant, each.day, each.method, each.provider, each.model, each.currency)
        other = sums.get(key)
        sums[key] = each if other is None else other.plus(each)
    return sorted(sums.values(), key=lambda each: (each.currency, -each.cost))


def _shown(one: Sum) -> SpendSum:
    return SpendSum(
        tenant="" if one.tenant is None else tenant_name(one.tenant),
        day="" if one.day is None else one.day.isoformat(),
        method=one.method or "",
        provider=one.provider or "",
        model=one.model or "",
        currency=one.currency,
        calls=one.calls,
        input_tokens=int(one.input_tokens),
        output_tokens=int(one.output_tokens),
        cost=plain(one.cost) if one.currency else "",
    )
