"""rowcall.v1.ErrorService: what went wrong by our own fault, for admins. Each shard keeps what it was told; here it is one list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from google.rpc.code_pb2 import Code

from rowcall.errors import RowcallError
from rowcall.incidents.model import IncidentRow
from rowcall.sharding.faults import RETRY_AFTER
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.error_service_pb2 import (
    GetIncidentRequest,
    GetIncidentResponse,
    Incident,
    IncidentState,
    ListIncidentsRequest,
    ListIncidentsResponse,
    ResolveIncidentRequest,
    ResolveIncidentResponse,
)
from rowcall.v1.error_service_pb2_grpc import ErrorServiceServicer
from rowcall.validation import Validator
from rowcall_gateway.calls.drafts import check_text
from rowcall_gateway.edge import incoming
from rowcall_gateway.edge.failures import not_known
from rowcall_gateway.resources import timestamp
from rowcall_gateway.shards.everywhere import Answers, ask_everywhere, listed
from rowcall_gateway.shards.links import Links, ShardLink
from rowcall_gateway.shards.looks import Looks

_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000


class Errors(ErrorServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, validator: Validator, links: Links) -> None:
        self._validator = validator
        self._links = links
        self._latest: Looks[Sequence[IncidentRow]] = Looks(links, _latest)

    async def ListIncidents(  # noqa: N802
        self,
        request: ListIncidentsRequest,
        context: Any,  # noqa: ARG002
    ) -> ListIncidentsResponse:
        """The incidents that were met last."""
        self._validator.check(request)
        _, answers = await self._latest.answers(incoming.current())
        if not answers.given:
            raise answers.unreachable()
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        found = [each for each in _merged(answers.given) if not request.states or each.state in request.states]
        return ListIncidentsResponse(incidents=found[:size], unreachable_shards=sorted(answers.missing))

    async def GetIncident(  # noqa: N802
        self,
        request: GetIncidentRequest,
        context: Any,  # noqa: ARG002
    ) -> GetIncidentResponse:
        """One incident."""
        self._validator.check(request)
        answers = await self._ask(request.fingerprint, 1)
        found = _merged(answers.given)
        if not found:
            raise answers.unreachable() if answers.missing else not_known("incident", request.fingerprint)
        return GetIncidentResponse(incident=found[0], unreachable_shards=sorted(answers.missing))

    async def ResolveIncident(  # noqa: N802
        self,
        request: ResolveIncidentRequest,
        context: Any,  # noqa: ARG002
    ) -> ResolveIncidentResponse:
        """Says that an incident is done with, on every shard that knows it."""
        self._validator.check(request)
        check_text(request.note, "note")
        call = incoming.current()
        answers = await ask_everywhere(
            self._links,
            lambda link: link.admin.resolve_incident(
                request.fingerprint, by=call.principal.actor, note=request.note or None, act=call.act
            ),
            call,
        )
        self._latest.forget()
        if answers.missing:
            raise RowcallError(
                ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE,
                f"The incident is perhaps not resolved on {listed(answers.missing)}, which did not answer. Call again.",
                metadata={"shard": ",".join(sorted(answers.missing))},
                retry_after=RETRY_AFTER,
            )
        if not any(answers.given.values()):
            raise not_known("incident", request.fingerprint)
        [found] = _merged((await self._ask(request.fingerprint, 1)).given)
        return ResolveIncidentResponse(incident=found)

    async def _ask(self, fingerprint: str, limit: int) -> Answers[Sequence[IncidentRow]]:
        """What the shards have; refused only where none answers."""
        answers: Answers[Sequence[IncidentRow]] = await ask_everywhere(
            self._links, lambda link: link.admin.incidents(fingerprint=fingerprint, limit=limit), incoming.current()
        )
        if not answers.given:
            raise answers.unreachable()
        return answers


async def _latest(link: ShardLink) -> Sequence[IncidentRow]:
    return await link.admin.incidents(limit=_LARGEST_PAGE)


def _merged(rows: Mapping[str, Iterable[IncidentRow]]) -> list[Incident]:
    """Each incident once, the latest first."""
    by_fingerprint: dict[str, list[IncidentRow]] = {}
    for row in chain.from_iterable(rows.values()):
        by_fingerprint.setdefault(row.fingerprint, []).append(row)
    found = sorted(by_fingerprint.values(), key=lambda same: max(row.last_at for row in same), reverse=True)
    return [_incident(same) for same in found]


def _incident(same: Sequence[IncidentRow]) -> Incident:
    first, last = min(same, key=lambda row: row.first_at), max(same, key=lambda row: row.last_at)
    resolved = max(
        ((row.resolved_at, row) for row in same if row.resolved_at is not None), key=lambda each: each[0], default=None
    )
    made = Incident(
        fingerprint=last.fingerprint,
        state=IncidentState.INCIDENT_STATE_OPEN,
        service=last.service,
        method=last.method,
        code=Code.ValueType(last.code),
        kind=last.kind,
        location=last.location,
        count=sum(row.count for row in same),
        first_time=timestamp(first.first_at),
        last_time=timestamp(last.last_at),
        trace_id=last.trace_id or "",
        first_version=first.first_version,
        last_version=last.last_version,
        regressions=sum(row.regressions for row in same),
    )
    if resolved is not None:
        at, row = resolved
        # Met by way of another shard, it is there that nobody has resolved it.
        back = last.last_at > at
        made.state = IncidentState.INCIDENT_STATE_REGRESSED if back else IncidentState.INCIDENT_STATE_RESOLVED
        made.resolve_time.FromDatetime(at)
        made.actor, made.note = row.resolved_by or "", row.resolve_note or ""
    return made
