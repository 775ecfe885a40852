"""rowcall.v1.ActionService: what an action was, from its first byte to its last cost, and which there were; of one tenant.

What of a large one is shown is `action_trees`'; what all of it cost, and what others did, is `spend`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code

from rowcall.names import operation_name, tenant_name
from rowcall.queue.actions import ActionFilter, ActionNode, ActionRow
from rowcall.queue.model import PENDING, Wait
from rowcall.queue.spend import CURRENCIES, SpendFilter, SpendSum, plain
from rowcall.telemetry.conventions import COST, COST_CURRENCY, GEN_AI_INPUT_TOKENS, GEN_AI_OUTPUT_TOKENS, LOCATION
from rowcall.v1 import action_service_pb2
from rowcall.v1.action_service_pb2 import (
    ActionCost,
    ActionGroup,
    ActionNodeKind,
    ActionSummary,
    GetActionRequest,
    GetActionResponse,
    GetSpendRequest,
    GetSpendResponse,
    ListActionsRequest,
    ListActionsResponse,
)
from rowcall.v1.action_service_pb2_grpc import ActionServiceServicer
from rowcall.v1.job_pb2 import JobState, WaitReason
from rowcall.validation import Validator
from rowcall_gateway.edge.access import Rights
from rowcall_gateway.edge.failures import not_found, not_known
from rowcall_gateway.edge.identity import tenant_required
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.resources import timestamp, wait_of
from rowcall_gateway.services import tokens
from rowcall_gateway.services.action_trees import Group, choose, ordered
from rowcall_gateway.services.filters import invalid_filter, method_name, time_of
from rowcall_gateway.services.fitting import fitting
from rowcall_gateway.services.reading import JobReader, call_for, check_parent, own_key, waits_of
from rowcall_gateway.services.spend import Spending
from rowcall_gateway.shards.links import Links, ShardLink

MOST_JOBS: Final = 10_000
"""Jobs of an action that are counted; action_service.proto says so."""
MOST_NODES: Final = 2000
"""Of one answer; action_service.proto says so."""
LOOK: Final = timedelta(milliseconds=25)
"""For how long a tenant's live jobs are looked through for those of a trace."""

DEFAULT_SIZE: Final = 50
MOST: Final = 200
"""Actions on a page; asking for more gets this many."""
LOOKED_AT: Final = 10_000
"""Jobs that are looked at for a page, where few match."""

_PENDING: Final = frozenset(JobState.Name(state).removeprefix("JOB_STATE_") for state in PENDING)
_PAID: Final = ("MODEL_CALL", "PROVIDER_CALL")
_CURRENCIES: Final = 100
"""Sums of one action at most."""
_LONGEST: Final = timedelta(days=3650)


class Actions(ActionServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, validator: Validator, reader: JobReader, links: Links, rights: Rights) -> None:
        """
        Args:
            validator: Of requests.
            reader: Knows where the caller's tenant lives.
            links: The shards.
            rights: Who sees what.
        """
        self._validator = validator
        self._reader = reader
        self._rights = rights
        self._spending = Spending(reader, links)

    async def GetAction(self, request: GetActionRequest, context: Any) -> GetActionResponse:  # noqa: ARG002, N802
        """One action, as a tree."""
        self._validator.check(request)
        call = call_for(request.operation or request.parent)
        if not call.tenant:
            raise tenant_required()
        check_parent(call, request.parent)
        named = own_key(call, request.operation)[1] if request.operation else None
        trace_id = UUID(request.trace_id) if request.trace_id else None
        unknown = not_known("action", request.trace_id) if named is None else not_found(request.operation)
        link = await self._reader.link(call)
        if link is None:
            raise unknown
        found = await link.admin.action_jobs(
            call.tenant, trace_id=trace_id, job_id=named, limit=MOST_JOBS + 1, patience=LOOK
        )
        chosen = choose(found.jobs[:MOST_JOBS], named)
        nodes = await link.admin.action_nodes(
            call.tenant,
            chosen.shown,
            hidden=chosen.hidden,
            trace_id=found.trace_id,
            audit=self._rights.sees_locations(call.principal),
            system=self._rights.sees_every_tenant(call.principal),
            limit=MOST_NODES,
        )
        costs = await _costs(link, call.tenant, found.trace_id, nodes)
        if not nodes and not costs:
            raise unknown
        shown, more = ordered(nodes, MOST_NODES)
        waits = await _waits(link, call.tenant, shown)
        groups = [_group(each, call.tenant) for each in chosen.groups]
        began, took = _extent(shown, groups)
        # Attributes are the handlers' to fill.
        told = fitting(self._node(each, call, waits) for each in shown)
        return GetActionResponse(
            tenant=tenant_name(call.tenant),
            trace_id="" if found.trace_id is None else found.trace_id.hex,
            start_time=timestamp(began),
            duration=took,
            nodes=told,
            groups=groups,
            jobs=min(len(found.jobs), MOST_JOBS),
            costs=map(_cost, costs),
            partial=more
            or len(told) < len(shown)
            or not found.whole
            or len(found.jobs) > MOST_JOBS
            or (found.trace_id is None and bool(chosen.hidden)),
        )

    async def ListActions(  # noqa: N802
        self,
        request: ListActionsRequest,
        context: Any,  # noqa: ARG002
    ) -> ListActionsResponse:
        """A page of a tenant's actions, newest first."""
        self._validator.check(request)
        call = call_for(request.parent)
        if not call.tenant:
            raise tenant_required()
        check_parent(call, request.parent)
        wanted = _filter(request)
        link = await self._reader.link(call)
        if link is None:
            return ListActionsResponse()
        key = await link.store.fingerprint_key()
        asked = ListActionsRequest()
        asked.CopyFrom(request)
        for field in ("parent", "page_size", "page_token"):
            asked.ClearField(field)
        about = f"actions\n{call.tenant}\n".encode() + asked.SerializeToString(deterministic=True)
        before = tokens.read(key, about, request.page_token) if request.page_token else None
        page = await link.admin.actions(
            call.tenant, wanted, before=before, limit=min(request.page_size or DEFAULT_SIZE, MOST), look=LOOKED_AT
        )
        return ListActionsResponse(
            actions=(_summary(call.tenant, row) for row in page.rows),
            next_page_token="" if page.looked_to is None else tokens.make(key, about, page.looked_to),
        )

    async def GetSpend(self, request: GetSpendRequest, context: Any) -> GetSpendResponse:  # noqa: ARG002, N802
        """What calls cost, in sums."""
        self._validator.check(request)
        return await self._spending.sums(request)

    def _node(
        self, node: ActionNode, call: IncomingCall, waits: Mapping[UUID, Sequence[Wait]]
    ) -> action_service_pb2.ActionNode:
        located = self._rights.sees_locations(call.principal)
        status, message = node.status or "", node.message or ""
        if node.kind == "WAIT" and node.ended_at is None and node.job_id is not None:
            reasons = [wait_of(each) for each in waits.get(node.job_id, ())]
            if reasons:
                status = WaitReason.Name(reasons[0].reason).removeprefix("WAIT_REASON_")
                message = " ".join(each.description for each in reasons)
        return action_service_pb2.ActionNode(
            id=node.node,
            parent_id=node.parent or "",
            kind=ActionNodeKind.Value(f"ACTION_NODE_KIND_{node.kind}"),
            name=node.name,
            start_time=timestamp(node.started_at),
            duration=_between(node.started_at, node.ended_at),
            status=status,
            code=Code.ValueType(node.code),
            message=message,
            attributes={name: _text(value) for name, value in node.attributes.items() if located or name != LOCATION},
        )


async def _costs(
    link: ShardLink, tenant: str, trace_id: UUID | None, nodes: Iterable[ActionNode]
) -> Sequence[SpendSum]:
    """What all of an action cost; without a trace, what is among its nodes."""
    if trace_id is not None:
        return await link.admin.spend(SpendFilter(tenant, trace_id=trace_id), (), limit=_CURRENCIES)
    sums: dict[str, SpendSum] = {}
    for node in nodes:
        if node.kind in _PAID:
            one = _spent(node.attributes)
            sums[one.currency] = one if one.currency not in sums else sums[one.currency].plus(one)
    return [sums[currency] for currency in sorted(sums)]


def _spent(attributes: Mapping[str, Any]) -> SpendSum:
    """What one call cost, as its node says."""
    given, taken = (Decimal(attributes.get(name, 0)) for name in (GEN_AI_INPUT_TOKENS, GEN_AI_OUTPUT_TOKENS))
    cost = Decimal(attributes.get(COST, 0))
    return SpendSum(None, None, None, None, None, attributes.get(COST_CURRENCY, ""), 1, given, taken, cost)


async def _waits(link: ShardLink, tenant: str, nodes: Iterable[ActionNode]) -> Mapping[UUID, Sequence[Wait]]:
    """What those of the jobs wait for that do."""
    waiting = [
        (tenant, node.job_id)
        for node in nodes
        if node.kind == "JOB" and node.status in _PENDING and node.job_id is not None
    ]
    found = await waits_of(link.store, waiting) if waiting else {}
    return {job_id: waits for (_, job_id), waits in found.items()}


def _extent(nodes: Sequence[ActionNode], groups: Sequence[ActionGroup]) -> tuple[datetime | None, Duration | None]:
    """When an action began, and how long it took; None: it goes on."""
    starts = [node.started_at for node in nodes if node.started_at is not None]
    starts += (group.start_time.ToDatetime(tzinfo=UTC) for group in groups)
    if not starts:
        return None, None
    began = min(starts)
    if any(node.ended_at is None for node in nodes) or not all(group.HasField("end_time") for group in groups):
        return began, None
    ends = [node.ended_at for node in nodes if node.ended_at is not None]
    ends += (group.end_time.ToDatetime(tzinfo=UTC) for group in groups)
    return began, _between(began, max(ends))


def _between(start: datetime | None, end: datetime | None) -> Duration | None:
    if start is None or end is None:
        return None
    made = Duration()
    # Clocks of several machines: what ended before it began took no time.
    made.FromTimedelta(max(end - start, timedelta(0)))
    return made


def _group(group: Group, tenant: str) -> ActionGroup:
    return ActionGroup(
        parent_id="" if group.parent is None else operation_name(tenant, group.parent),
        method=group.method,
        state=JobState.ValueType(group.state),
        jobs=group.jobs,
        descendants=group.descendants,
        start_time=timestamp(group.started_at),
        end_time=timestamp(group.ended_at),
        longest=None if group.longest is None else _between(group.started_at, group.started_at + group.longest),
    )


def _cost(one: SpendSum) -> ActionCost:
    return ActionCost(
        currency=one.currency,
        calls=one.calls,
        input_tokens=int(one.input_tokens),
        output_tokens=int(one.output_tokens),
        cost=plain(one.cost) if one.currency else "",
    )


def _summary(tenant: str, row: ActionRow) -> ActionSummary:
    return ActionSummary(
        operation=operation_name(tenant, row.job_id),
        trace_id="" if row.trace_id is None else row.trace_id.hex,
        method=row.method,
        state=JobState.ValueType(row.state),
        code=Code.ValueType(row.error_code or 0),
        start_time=timestamp(row.created_at),
        duration=_between(row.created_at, row.finished_at),
        attempts=row.attempts,
        costs=map(_cost, row.costs),
    )


def _filter(request: ListActionsRequest) -> ActionFilter:
    """What a request asks for. Raises RowcallError: INVALID_FILTER."""
    start = time_of(request.start_from, "start_from") if request.HasField("start_from") else None
    end = time_of(request.start_to, "start_to") if request.HasField("start_to") else None
    if start is not None and end is not None and start >= end:
        raise invalid_filter("start_to", "is not after start_from, so that nothing can match; set it later")
    least = request.min_duration.ToTimedelta() if request.HasField("min_duration") else None
    if least is not None and least > _LONGEST:
        raise invalid_filter("min_duration", "is more than ten years; no job takes as long")
    if bool(request.min_cost) != bool(request.currency):
        raise invalid_filter("min_cost", 'goes with currency, as "0.50" and EUR: give both or neither')
    if request.currency and request.currency not in CURRENCIES:
        raise invalid_filter("currency", "is none of ISO 4217; write three letters, as EUR")
    return ActionFilter(
        start_from=start,
        start_to=end,
        states=tuple(sorted(set(request.states))) or None,
        method=method_name(request.method, "method"),
        min_duration=least,
        min_cost=Decimal(request.min_cost) if request.min_cost else None,
        currency=request.currency or None,
    )


def _text(value: object) -> str:
    """An attribute's value as text: as JSON has it, but for texts themselves."""
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
