"""Where the caller's own tenant lives, by the name that a request has for it, and what tenants look like. Called by `tenants` and what serves
it, and by `changes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rowcall.errors import RowcallError
from rowcall.names import parse_tenant_name, tenant_name
from rowcall.queue.tenants import ERASED, ErasureRow, TenantRow
from rowcall.sharding import Route, Router
from rowcall.sharding.model import RouteState
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.tenant_service_pb2 import ErasedRows, Erasure, Tenant, TenantState
from rowcall_gateway.edge.failures import not_known
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.resources import timestamp
from rowcall_gateway.shards.links import Links, ShardLink

_STATES: Final = {1: TenantState.TENANT_STATE_ACTIVE, 2: TenantState.TENANT_STATE_MOVING}


@dataclass(frozen=True, slots=True)
class Home:
    """Where a tenant lives."""

    route: Route
    link: ShardLink
    row: TenantRow | None
    """The tenant as its shard has it; None: it was placed there and not taken in yet."""

    @property
    def name(self) -> str:
        """As in the API: "tenants/{tenant}"."""
        return tenant_name(self.route.tenant)


class Homes:
    """Finds them."""

    def __init__(self, router: Router, links: Links) -> None:
        self._router = router
        self._links = links

    async def of(self, call: IncomingCall, name: str) -> Home:
        """Where the tenant of a name lives, which must be the caller's.

        Raises:
            RowcallError: INVALID_NAME, NOT_KNOWN, or what the router raises.
        """
        tenant = own_tenant(call, name)
        for last in (False, True):
            route = self._router.route_cached(tenant) or await self._router.find(tenant)
            if route is None:
                break
            link = self._links[self._router.shard(route.shard).name]
            row = (await link.tenants.find([tenant])).get(tenant)
            if (row is None and last) or (row is not None and row.state != RouteState.MOVED):
                return Home(route, link, row)
            # It has moved: whoever knows better is asked once.
            self._router.invalidate(tenant, route.epoch)
        raise not_known("tenant", name)


def own_tenant(call: IncomingCall, name: str) -> str:
    """The tenant of a name, which must be the caller's. Raises RowcallError: INVALID_NAME, NOT_KNOWN."""
    tenant = parse_tenant_name(name)
    if tenant is None:
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_NAME,
            "The name is not that of a tenant: tenants/{tenant}.",
            metadata={"name": name},
        )
    if tenant != call.tenant:
        raise not_known("tenant", name)
    return tenant


def tenant_of(route: Route, row: TenantRow | None) -> Tenant:
    """A tenant, with what its shard says of it."""
    made = Tenant(name=tenant_name(route.tenant), shard=route.shard, epoch=route.epoch)
    if row is None:
        return made
    made.weight = row.weight
    made.state = _state(row)
    if row.paused_at is not None and row.state != ERASED:
        made.pause_time.FromDatetime(row.paused_at)
        made.pause_actor = row.paused_by or ""
        made.pause_note = row.pause_note or ""
    if row.erasure is not None:
        made.erasure.CopyFrom(erasure_of(route, row.erasure))
    return made


def _state(row: TenantRow) -> TenantState.ValueType:
    if row.state != ERASED:
        return _STATES.get(row.state, TenantState.TENANT_STATE_UNSPECIFIED)
    if row.erasure is None or row.erasure.finished_at is None:
        return TenantState.TENANT_STATE_ERASING
    return TenantState.TENANT_STATE_ERASED


def erasure_of(route: Route, row: ErasureRow) -> Erasure:
    """An erasure as its shard keeps it."""
    return Erasure(
        name=tenant_name(route.tenant),
        shard=route.shard,
        number=row.number,
        begin_time=timestamp(row.begun_at),
        finish_time=timestamp(row.finished_at),
        actor=row.actor or "",
        note=row.note or "",
        erased=erased_rows(row.erased),
    )


def erased_rows(counts: Mapping[str, int]) -> list[ErasedRows]:
    """Rows by what they are; what there is none of is left out."""
    return [ErasedRows(kind=kind, rows=rows) for kind, rows in sorted(counts.items()) if rows]
