"""rowcall.v1.TenantService: tenants as operators see them, what they do to them, and all that is kept of one exported and erased."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rowcall.queue.model import Counts, ShardToday
from rowcall.queue.tenants import LiveJobs, TenantRow
from rowcall.sharding import Router
from rowcall.v1.tenant_service_pb2 import (
    EraseTenantRequest,
    EraseTenantResponse,
    ExportTenantRequest,
    ExportTenantResponse,
    GetTenantRequest,
    GetTenantResponse,
    ListTenantFailuresRequest,
    ListTenantFailuresResponse,
    ListTenantsRequest,
    ListTenantsResponse,
    PauseTenantRequest,
    PauseTenantResponse,
    ReopenTenantRequest,
    ReopenTenantResponse,
    ResumeTenantRequest,
    ResumeTenantResponse,
    SetTenantWeightRequest,
    SetTenantWeightResponse,
    Tenant,
    TenantJobs,
)
from rowcall.v1.tenant_service_pb2_grpc import TenantServiceServicer
from rowcall.validation import Validator
from rowcall_gateway.calls.drafts import check_text
from rowcall_gateway.edge import incoming
from rowcall_gateway.services.activity import job_counts
from rowcall_gateway.services.changes import Changes
from rowcall_gateway.services.erasures import Erasures
from rowcall_gateway.services.exports import Exports
from rowcall_gateway.services.homes import Homes, tenant_of
from rowcall_gateway.services.tenant_failures import tenant_failures
from rowcall_gateway.services.tokens import text_of, text_token
from rowcall_gateway.shards.everywhere import ask_everywhere
from rowcall_gateway.shards.links import Links, ShardLink

COUNTED: Final = 10_000
"""Among so many a tenant's jobs are counted; tenant_service.proto says so."""

_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000


class Tenants(TenantServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(
        self,
        validator: Validator,
        changes: Changes,
        *,
        router: Router,
        links: Links,
        homes: Homes,
        exports: Exports,
        erasures: Erasures,
    ) -> None:
        """
        Args:
            validator: Of requests.
            changes: Pauses and weighs tenants.
            router: Knows which tenants there are.
            links: The shards.
            homes: Knows where the caller's tenant lives.
            exports: Makes pages of all that is kept of one.
            erasures: Erases it.
        """
        self._validator = validator
        self._changes = changes
        self._router = router
        self._links = links
        self._homes = homes
        self._exports = exports
        self._erasures = erasures

    async def GetTenant(self, request: GetTenantRequest, context: Any) -> GetTenantResponse:  # noqa: ARG002, N802
        """The caller's tenant."""
        self._validator.check(request)
        home = await self._homes.of(incoming.current(), request.name)
        made = tenant_of(home.route, home.row)
        made.jobs.CopyFrom(_jobs(await home.link.tenants.live_jobs(home.route.tenant, COUNTED)))
        _add_today(made, home.route.tenant, home.row, await _today(home.link, [home.route.tenant]))
        return GetTenantResponse(tenant=made)

    async def ListTenants(self, request: ListTenantsRequest, context: Any) -> ListTenantsResponse:  # noqa: ARG002, N802
        """All tenants, by name, with what their shards say of them."""
        self._validator.check(request)
        check_text(request.shard, "shard")
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        routes = await self._router.tenants.page(after=text_of(request.page_token), shard=request.shard, limit=size + 1)
        shown = routes[:size]
        by_shard: dict[str, list[str]] = {}
        for route in shown:
            by_shard.setdefault(route.shard, []).append(route.tenant)
        links = [link for link in map(self._links.get, by_shard) if link is not None]

        async def find(link: ShardLink) -> tuple[dict[str, TenantRow], _Today]:
            names = by_shard[link.name]
            return await link.tenants.find(names), await _today(link, names)

        answers = await ask_everywhere(links, find, incoming.current())
        tenants: list[Tenant] = []
        for route in shown:
            rows, today = answers.given.get(route.shard) or ({}, None)
            made = tenant_of(route, rows.get(route.tenant))
            if today is not None:
                _add_today(made, route.tenant, rows.get(route.tenant), today)
            tenants.append(made)
        return ListTenantsResponse(
            tenants=tenants,
            next_page_token=text_token(shown[-1].tenant) if len(routes) > size else "",
            unreachable_shards=sorted(by_shard.keys() - answers.given.keys()),
        )

    async def ListTenantFailures(  # noqa: N802
        self,
        request: ListTenantFailuresRequest,
        context: Any,  # noqa: ARG002
    ) -> ListTenantFailuresResponse:
        """The dead letters of all tenants, by what they died of."""
        self._validator.check(request)
        return await tenant_failures(self._links, incoming.current(), request, datetime.now(UTC))

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

    async def ExportTenant(self, request: ExportTenantRequest, context: Any) -> ExportTenantResponse:  # noqa: ARG002, N802
        """A page of everything that is kept of the caller's tenant."""
        self._validator.check(request)
        call = incoming.current()
        self._exports.check(call, payloads=not request.without_payloads)
        home = await self._homes.of(call, request.name)
        page = await self._exports.page(call, home, token=request.page_token, payloads=not request.without_payloads)
        return ExportTenantResponse(records=page.records, next_page_token=page.next_token)

    async def EraseTenant(self, request: EraseTenantRequest, context: Any) -> EraseTenantResponse:  # noqa: ARG002, N802
        """Erases a part of it, or says what there is."""
        self._validator.check(request)
        check_text(request.note, "note")
        call = incoming.current()
        home = await self._homes.of(call, request.name)
        if request.validate_only:
            return await self._erasures.preview(home)
        return await self._erasures.erase(call, home, request.note)

    async def ReopenTenant(self, request: ReopenTenantRequest, context: Any) -> ReopenTenantResponse:  # noqa: ARG002, N802
        """Opens the caller's tenant again after its erasure."""
        self._validator.check(request)
        call = incoming.current()
        await self._erasures.reopen(call, await self._homes.of(call, request.name))
        return ReopenTenantResponse()


@dataclass(frozen=True, slots=True)
class _Today:
    """What happened on a shard today, and what waits there."""

    counts: Mapping[str, Counts]
    waiting: Mapping[str, int]
    """Both by tenant."""
    shard: ShardToday


async def _today(link: ShardLink, tenants: Sequence[str]) -> _Today:
    counts, waiting = await link.tenants.counts(tenants), await link.tenants.waiting(tenants)
    return _Today(counts, waiting, await link.tenants.today())


def _add_today(made: Tenant, tenant: str, row: TenantRow | None, today: _Today) -> None:
    """Says of a tenant what happened to its jobs, and whether it had its share."""
    counts = today.counts.get(tenant)
    made.today.CopyFrom(job_counts([] if counts is None else [counts]))
    made.waiting = today.waiting.get(tenant, 0)
    if counts is not None and today.shard.started:
        made.share = counts.started / today.shard.started
    if counts is not None and row is not None and today.shard.weight:
        made.due_share = row.weight / today.shard.weight


def _jobs(jobs: LiveJobs) -> TenantJobs:
    return TenantJobs(
        scheduled=jobs.scheduled,
        ready=jobs.ready,
        held=jobs.held,
        running=jobs.running,
        waiting=jobs.waiting,
        capped=jobs.capped,
    )
