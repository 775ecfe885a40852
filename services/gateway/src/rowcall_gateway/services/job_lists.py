"""Pages of a tenant's jobs and its dead letters in groups: what operators look at. Called by `jobs`.

A page is bounded in bytes too, because gRPC's clients take messages of 4 MiB by default: jobs with their requests and
answers may be two mebibytes each, so they are read a few at a time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final
from uuid import UUID

from google.rpc.status_pb2 import Status

from rowcall.names import operation_name
from rowcall.queue.model import PENDING, FailureGroup, JobRow, Wait
from rowcall.queue.protocol import JobStore
from rowcall.v1 import job_service_pb2
from rowcall.v1.job_service_pb2 import (
    JobView,
    ListFailureGroupsRequest,
    ListFailureGroupsResponse,
    ListJobsRequest,
    ListJobsResponse,
)
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.resources import timestamp
from rowcall_gateway.services import tokens
from rowcall_gateway.services.disclosures import Disclosures
from rowcall_gateway.services.filters import job_filter, method_name, time_of
from rowcall_gateway.services.reading import JobReader, check_parent, waits_of

DEFAULT_SIZE: Final = 100
MOST: Final = 1000
"""Jobs on a page; asking for more gets this many."""

PAGE_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
"""Jobs on a page, serialised: what gRPC's clients take by default, less room for the token and the framing. A job that
is larger alone is a page of its own."""

_FIRST_SLICE: Final = 8
_LARGEST_SLICE: Final = 100
"""Jobs read at a time: what does not fit on the page is read for nothing."""

_FRAMING: Final = 8
"""Bytes of a job in a repeated field, beside its own."""


class JobLists:
    """Answers what lists jobs."""

    def __init__(self, reader: JobReader, shown: Disclosures) -> None:
        self._reader = reader
        self._shown = shown

    async def page(self, call: IncomingCall, request: ListJobsRequest) -> ListJobsResponse:
        """A page of the caller's jobs, newest first. The request's own rules were checked before.

        Raises:
            RowcallError: INVALID_NAME, NOT_KNOWN, INVALID_FILTER, INVALID_PAGE_TOKEN, or what the store raises.
        """
        check_parent(call, request.parent)
        wanted = job_filter(call, request.filter, "filter")
        full = request.view == JobView.JOB_VIEW_FULL
        link = await self._reader.link(call)
        if link is None:
            return ListJobsResponse()
        key = await link.store.fingerprint_key()
        about = f"jobs\n{call.tenant}\n{full}\n".encode() + request.filter.SerializeToString(deterministic=True)
        before = tokens.read(key, about, request.page_token) if request.page_token else None
        limit = min(request.page_size or DEFAULT_SIZE, MOST)
        found = await link.store.find(call.tenant, wanted, before=before, limit=limit + 1)
        response = ListJobsResponse()
        last = found[limit - 1] if len(found) > limit else None
        room, shown = PAGE_BYTES, None
        disclosed: list[UUID] = []
        async with aclosing(_rows(link.store, call.tenant, found[:limit], full=full)) as rows:
            async for row, waits in rows:
                job = self._shown.unrecorded(call, row, waits)
                room -= job.ByteSize() + _FRAMING
                if shown is not None and room < 0:
                    last = shown
                    break
                response.jobs.append(job)
                shown = row.job_id
                if self._shown.is_disclosure(call, row):
                    disclosed.append(row.job_id)
        await self._shown.record(call, link, disclosed)
        if last is not None:
            response.next_page_token = tokens.make(key, about, last)
        return response

    async def failure_groups(self, call: IncomingCall, request: ListFailureGroupsRequest) -> ListFailureGroupsResponse:
        """The caller's dead letters by method and what they died of. The request's own rules were checked before.

        Raises:
            RowcallError: INVALID_NAME, NOT_KNOWN, INVALID_FILTER, or what the store raises.
        """
        check_parent(call, request.parent)
        method = method_name(request.method, "method")
        since = time_of(request.finished_from, "finished_from") if request.HasField("finished_from") else None
        link = await self._reader.link(call)
        if link is None:
            return ListFailureGroupsResponse()
        limit = request.page_size or DEFAULT_SIZE
        groups = await link.store.failure_groups(call.tenant, method=method, finished_from=since, limit=limit)
        return ListFailureGroupsResponse(groups=[failure_group(each) for each in groups])


async def _rows(
    store: JobStore, tenant: str, job_ids: Sequence[UUID], *, full: bool
) -> AsyncGenerator[tuple[JobRow, Sequence[Wait]], None]:
    """The jobs that are still there, in this order, with what they wait for, read in slices that fit what they turn out to
    hold."""
    start, size = 0, _FIRST_SLICE if full else _LARGEST_SLICE
    while start < len(job_ids):
        part = [(tenant, job_id) for job_id in job_ids[start : start + size]]
        start += len(part)
        rows = await store.read(part, request=full, response=full)
        waits = await waits_of(store, [key for key, row in rows.items() if row.state in PENDING])
        for key in part:
            if key in rows:
                yield rows[key], waits.get(key, ())
        if full:
            held = sum(len(row.request or b"") + len(row.response or b"") for row in rows.values())
            size = max(1, min(PAGE_BYTES * len(part) // max(held, 1), _LARGEST_SLICE))


def failure_group(group: FailureGroup) -> job_service_pb2.FailureGroup:
    """Dead letters that have in common what they died of."""
    return job_service_pb2.FailureGroup(
        method=group.method,
        error_fingerprint=group.error_fingerprint,
        job_count=group.jobs,
        first_fail_time=timestamp(group.first_finished_at),
        last_fail_time=timestamp(group.last_finished_at),
        error=Status(code=group.error_code, message=group.error_message),
        sample=operation_name(group.last_tenant, group.last_job_id),
        tenant_count=group.tenants,
    )
