"""The dead letters of all tenants by what they died of, over all shards. Called by `tenants`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Final

from rowcall.queue.model import FailureGroup
from rowcall.v1.tenant_service_pb2 import ListTenantFailuresRequest, ListTenantFailuresResponse
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.services.filters import method_name, time_of
from rowcall_gateway.services.job_lists import failure_group
from rowcall_gateway.shards.everywhere import ask_everywhere
from rowcall_gateway.shards.links import Links, ShardLink

_GROUPS: Final = 100
_MOST: Final = 1000
"""Groups that a shard is asked for, whatever is shown of them: one may be large on several."""
_LATELY: Final = timedelta(days=1)


async def tenant_failures(
    links: Links, call: IncomingCall, request: ListTenantFailuresRequest, now: datetime
) -> ListTenantFailuresResponse:
    """The largest groups. The request's own rules were checked before.

    Raises:
        RowcallError: INVALID_FILTER, or no shard answers.
    """
    method = method_name(request.method, "method")
    since = time_of(request.finished_from, "finished_from") if request.HasField("finished_from") else now - _LATELY

    async def groups(link: ShardLink) -> Sequence[FailureGroup]:
        return await link.store.failure_groups(None, method=method, finished_from=since, limit=_MOST)

    answers = await ask_everywhere(links, groups, call)
    if not answers.given:
        raise answers.unreachable()
    return ListTenantFailuresResponse(
        groups=map(failure_group, _merged(answers.given)[: request.page_size or _GROUPS]),
        unreachable_shards=sorted(answers.missing),
    )


def _merged(groups: Mapping[str, Iterable[FailureGroup]]) -> list[FailureGroup]:
    """Each group once, most jobs first. A tenant lives on one shard, so tenants add up too."""
    by_kind: dict[tuple[str, str], FailureGroup] = {}
    for group in chain.from_iterable(groups.values()):
        kind = (group.method, group.error_fingerprint)
        other = by_kind.get(kind)
        if other is not None:
            last = max(group, other, key=lambda each: each.last_finished_at)
            group = replace(  # noqa: PLW2901
                last,
                jobs=group.jobs + other.jobs,
                tenants=group.tenants + other.tenants,
                first_finished_at=min(group.first_finished_at, other.first_finished_at),
            )
        by_kind[kind] = group
    return sorted(by_kind.values(), key=lambda each: (-each.jobs, -each.last_finished_at.timestamp()))
