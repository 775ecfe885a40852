"""Jobs by their names, within the caller's tenant: found, cancelled, deleted. Called by all that serve named jobs.

A name of another tenant is not found, exactly like one that nobody has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from rowcall.audit.model import Act
from rowcall.errors import RowcallError, reason_name
from rowcall.names import operation_name, parse_operation_name, parse_tenant_name, tenant_name
from rowcall.queue.model import JobRow, Wait
from rowcall.queue.protocol import JobStore
from rowcall.sharding import Router
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState
from rowcall_gateway.edge import incoming
from rowcall_gateway.edge.failures import not_found
from rowcall_gateway.edge.identity import in_tenant
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.shards.links import Links, ShardLink

AHEAD: Final = 1000
"""How far the jobs before one that waits are counted; job.proto says so."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a named job is, if it is anywhere."""

    link: ShardLink
    """Its tenant's shard."""
    key: tuple[str, UUID]
    """Tenant and job."""

    @property
    def name(self) -> str:
        """The operation's name."""
        return operation_name(*self.key)

    async def row(self, *, request: bool = False, response: bool = False) -> JobRow:
        """The job as it stands.

        Raises:
            RowcallError: JOB_NOT_FOUND, or what the store raises.
        """
        row = await self.link.rows.read(self.key, request=request, response=response)
        if row is None:
            raise not_found(self.name)
        return row

    async def waits(self) -> Sequence[Wait]:
        """What the job waits for, with how many are before it; nothing where it does not wait."""
        return (await waits_of(self.link.store, [self.key], ahead=AHEAD)).get(self.key, ())

    async def cancel(self, act: Act) -> None:
        """Cancels the job if it waits, marks it if it runs, leaves it if it is finished.

        Args:
            act: Whose doing it is; recorded with it.

        Raises:
            RowcallError: JOB_NOT_FOUND, or what the store raises.
        """
        cancelled = await self.link.store.cancel(*self.key, act=act)
        if cancelled is None:
            # No live job: finished, or none at all.
            await self.row()
        else:
            self.link.cancelled(self.key[0], {self.key[1]: cancelled})

    async def delete(self, act: Act) -> None:
        """Erases the job, which must be finished.

        Args:
            act: Whose doing it is; recorded with it.

        Raises:
            RowcallError: JOB_NOT_FOUND, JOB_NOT_FINISHED, or what the store raises.
        """
        if await self.link.store.delete(*self.key, act=act):
            return
        state = JobState.Name(JobState.ValueType((await self.row()).state)).removeprefix("JOB_STATE_")
        raise RowcallError(
            ErrorReason.ERROR_REASON_JOB_NOT_FINISHED,
            f"The operation is {state}; only a finished one can be deleted. Cancel it first.",
            metadata={"operation": self.name, "state": state},
        )


async def waits_of(
    store: JobStore, jobs: Sequence[tuple[str, UUID]], *, ahead: int | None = None
) -> Mapping[tuple[str, UUID], Sequence[Wait]]:
    """What jobs wait for, by tenant and id; nothing where the shard does not say it: the jobs are shown all the same."""
    try:
        return await store.waits(jobs, ahead=ahead)
    except RowcallError as error:
        _log.warning("not found what jobs wait for", reason=reason_name(error.reason), error=error.message)
        return {}


def call_for(name: str) -> IncomingCall:
    """The call that is served, of the tenant that a name of the Operations service is in, where its credential leaves that
    open: stock clients of operations send a name and no metadata."""
    call = incoming.current()
    tenant = parse_tenant_name("/".join(name.split("/", 2)[:2]))
    if tenant is not None:
        call.principal = in_tenant(call.principal, tenant)
    return call


def own_key(call: IncomingCall, name: str) -> tuple[str, UUID]:
    """Tenant and job of a name, which must be the caller's own tenant's.

    Raises:
        RowcallError: INVALID_NAME, JOB_NOT_FOUND.
    """
    parsed = parse_operation_name(name)
    if parsed is None:
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_NAME,
            "The name is not that of an operation: tenants/{tenant}/operations/{uuid}.",
            metadata={"name": name},
        )
    if parsed[0] != call.tenant:
        raise not_found(name)
    return parsed


def check_parent(call: IncomingCall, parent: str) -> None:
    """Refuses a list of another tenant: `parent` is "tenants/{tenant}" of the caller's own, or empty.

    Raises:
        RowcallError: INVALID_NAME; NOT_KNOWN for every other tenant, there or not.
    """
    if parent in ("", tenant_name(call.tenant)):
        return
    if parse_tenant_name(parent) is None:
        raise RowcallError(
            ErrorReason.ERROR_REASON_INVALID_NAME,
            "Jobs are listed by tenant: parent is tenants/{tenant}, or empty for the caller's own.",
            metadata={"name": parent},
        )
    raise RowcallError(
        ErrorReason.ERROR_REASON_NOT_KNOWN,
        "The tenant in parent is not the caller's: leave parent empty, or call as that tenant.",
        metadata={"name": parent},
    )


class JobReader:
    """Finds the shards of names."""

    def __init__(self, router: Router, links: Links) -> None:
        self._router = router
        self._links = links

    async def place(self, call: IncomingCall, name: str) -> Place:
        """Where a named job is.

        Raises:
            RowcallError: INVALID_NAME, JOB_NOT_FOUND, or what the router raises.
        """
        key = own_key(call, name)
        link = await self.link(call)
        if link is None:
            raise not_found(name)
        call.operation = name
        return Place(link, key)

    async def link(self, call: IncomingCall) -> ShardLink | None:
        """The caller's shard; None for a tenant that never submitted anything: reading places nobody.

        Raises:
            RowcallError: What the router raises.
        """
        route = self._router.route_cached(call.tenant) or await self._router.find(call.tenant)
        return None if route is None else self._links[self._router.shard(route.shard).name]
