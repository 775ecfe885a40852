"""Everything that is kept of a tenant, in pages that are recorded. Called by `tenants`.

The kinds of things come one after another; a page has things of one kind, and where it ends is all that its token says. So an export can
be gone on with by anybody, at any gateway, whenever the last page came.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration

from rowcall.errors import RowcallError
from rowcall.names import operation_name
from rowcall.queue.spend import SpendKind
from rowcall.queue.tenants import IncidentTrace, KeyRow, SpanRow, SpendRow, SpendSumRow
from rowcall.security.roles import PAYLOAD_VIEWER
from rowcall.tracing import span_name
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.tenant_service_pb2 import (
    ExportedIncident,
    ExportedKey,
    ExportedRecord,
    ExportedSpan,
    ExportedSpend,
    ExportedSpendSum,
)
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.resources import Resources, timestamp
from rowcall_gateway.services import tokens
from rowcall_gateway.services.audit import audit_entry
from rowcall_gateway.services.fitting import ANSWER_BYTES, fitting
from rowcall_gateway.services.homes import Home, tenant_of

ROWS: Final = 500
"""Of a page."""


_KINDS: Final = ("INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
"""opentelemetry.trace.SpanKind, which is not loaded for it."""
_STATUSES: Final = ("UNSET", "OK", "ERROR")
"""opentelemetry.trace.StatusCode"""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of an export."""

    records: Sequence[ExportedRecord]
    next_token: str
    """Of the next page; empty after the last one."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One page that is asked for."""

    call: IncomingCall
    home: Home
    payloads: bool
    after: Any
    """Where the page before it ended, within the kind; None at its beginning."""


_Part = tuple[list[ExportedRecord], Any]
"""Things of a kind, and where they end; None: there are no more of them."""


class Exports:
    """Makes pages."""

    def __init__(self, resources: Resources) -> None:
        """
        Args:
            resources: Makes jobs of rows.
        """
        self._resources = resources
        self._kinds: Sequence[Callable[[_Asked], Awaitable[_Part]]] = (
            _tenant,
            _keys,
            _incidents,
            self._jobs,
            _spend,
            _spend_sums,
            _spans,
            _audit,
        )

    def check(self, call: IncomingCall, *, payloads: bool) -> None:
        """Refuses who may not see the payloads that an export has.

        Raises:
            RowcallError: MISSING_ROLE.
        """
        principal = call.principal
        if payloads and not principal.believed and PAYLOAD_VIEWER not in principal.roles:
            raise RowcallError(
                ErrorReason.ERROR_REASON_MISSING_ROLE,
                f"An export has the payloads of every method: it is for callers with the role {PAYLOAD_VIEWER} too. Call with it, or "
                "leave payloads out (without_payloads).",
                metadata={"method": "rowcall.v1.TenantService/ExportTenant", "roles": PAYLOAD_VIEWER},
            )

    async def page(self, call: IncomingCall, home: Home, *, token: str, payloads: bool) -> Page:
        """The page that a token stands for.

        Args:
            call: Asks.
            home: Where the tenant lives.
            token: Of the page before; empty for the first.
            payloads: With requests, responses and the details of errors.

        Raises:
            RowcallError: INVALID_PAGE_TOKEN, or what the shard raises.
        """
        key = await home.link.store.fingerprint_key()
        about = f"export\n{home.route.tenant}\n{payloads}".encode()
        kind, after = json.loads(tokens.read_text(key, about, token)) if token else (0, None)
        records: list[ExportedRecord] = []
        while kind < len(self._kinds) and not records:
            records, after = await self._kinds[kind](_Asked(call, home, payloads, after))
            if after is None:
                kind += 1
        if kind == len(self._kinds):
            return Page(records, "")
        return Page(records, tokens.make_text(key, about, json.dumps([kind, after])))

    async def _jobs(self, asked: _Asked) -> _Part:
        found = await asked.home.link.tenants.export_jobs(
            asked.home.route.tenant,
            after=None if asked.after is None else UUID(asked.after),
            limit=ROWS,
            limit_bytes=ANSWER_BYTES,
            payloads=asked.payloads,
            act=asked.call.act,
        )
        records = [
            ExportedRecord(job=self._resources.job(row, asked.call.principal, withheld=not asked.payloads))
            for row in found
        ]
        # How many fit is not known here: the last page of them is an empty one.
        return records, str(found[-1].job_id) if found else None


async def _tenant(asked: _Asked) -> _Part:
    return [ExportedRecord(tenant=tenant_of(asked.home.route, asked.home.row))], None


async def _keys(asked: _Asked) -> _Part:
    tenant = asked.home.route.tenant
    after = None if asked.after is None else (asked.after[0], asked.after[1])
    found = await asked.home.link.tenants.export_keys(tenant, after=after, limit=ROWS, act=asked.call.act)
    return _part(found, lambda row: ExportedRecord(key=_key(tenant, row)), lambda row: [row.method_id, row.request_id])


async def _incidents(asked: _Asked) -> _Part:
    found = await asked.home.link.tenants.export_incidents(
        asked.home.route.tenant, after=asked.after, limit=ROWS, act=asked.call.act
    )
    return _part(found, lambda row: ExportedRecord(incident=_incident(row)), lambda row: row.fingerprint)


async def _spend(asked: _Asked) -> _Part:
    tenant = asked.home.route.tenant
    after = None if asked.after is None else (UUID(asked.after[0]), int(asked.after[1]), int(asked.after[2]))
    found = await asked.home.link.tenants.export_spend(tenant, after=after, limit=ROWS, act=asked.call.act)
    return _part(
        found,
        lambda row: ExportedRecord(spend=_spent(tenant, row)),
        lambda row: [str(row.job_id), row.lease, row.call],
    )


async def _spend_sums(asked: _Asked) -> _Part:
    day, skip = (None, 0) if asked.after is None else (date.fromisoformat(asked.after[0]), int(asked.after[1]))
    found = await asked.home.link.tenants.export_spend_sums(
        asked.home.route.tenant, day=day, skip=skip, limit=ROWS, act=asked.call.act
    )
    records = [ExportedRecord(spend_sum=_sum(row)) for row in found]
    if len(found) < ROWS:
        return records, None
    last = found[-1].day
    of_last = sum(row.day == last for row in found)
    return records, [last.isoformat(), of_last + (skip if last == day else 0)]


async def _spans(asked: _Asked) -> _Part:
    after = None if asked.after is None else (UUID(asked.after[0]), int(asked.after[1]))
    found = await asked.home.link.tenants.export_activity(
        asked.home.route.tenant, after=after, limit=ROWS, act=asked.call.act
    )
    return _part(found, lambda row: ExportedRecord(span=_span(row)), lambda row: [str(row.trace_id), row.span_id])


async def _audit(asked: _Asked) -> _Part:
    tenant, link = asked.home.route.tenant, asked.home.link
    if asked.after is None:
        newest = await link.admin.audit_entries(tenant, limit=1)
        after, until = 0, newest[0].number if newest else 0
    else:
        after, until = asked.after
    found = await link.tenants.export_audit(tenant, after=after, until=until, limit=ROWS, act=asked.call.act)
    return _part(
        found,
        lambda entry: ExportedRecord(audit=audit_entry(entry, chain=asked.home.name, database=asked.home.route.shard)),
        lambda entry: [entry.number, until],
    )


def _part(found: Sequence[Any], record: Callable[[Any], ExportedRecord], position: Callable[[Any], Any]) -> _Part:
    """As many of those that were found as a page holds, each as its record, and the position of the last one."""
    records = fitting(map(record, found))
    whole = len(records) == len(found) < ROWS
    return records, None if whole else position(found[len(records) - 1])


def _key(tenant: str, row: KeyRow) -> ExportedKey:
    return ExportedKey(
        method=row.method,
        request_id=row.request_id,
        job=operation_name(tenant, row.job_id),
        expire_time=timestamp(row.expires_at),
        repeat_time=timestamp(row.repeated_at),
    )


def _incident(row: IncidentTrace) -> ExportedIncident:
    return ExportedIncident(
        fingerprint=row.fingerprint,
        service=row.service,
        method=row.method,
        code=row.code,
        kind=row.kind,
        last_time=timestamp(row.last_at),
        trace_id=row.trace_id,
    )


def _spent(tenant: str, row: SpendRow) -> ExportedSpend:
    made = ExportedSpend(
        job=operation_name(tenant, row.job_id),
        method=row.method,
        kind=SpendKind(row.kind).name,
        provider=row.provider,
        model=row.model,
        time=timestamp(row.spent_at),
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost="" if row.cost is None else format(row.cost, "f"),
        currency=row.currency or "",
        verdict=row.verdict or "",
        trace_id="" if row.trace_id is None else row.trace_id.hex,
        lease=row.lease,
        call=row.call,
    )
    if row.latency is not None:
        latency = Duration()
        latency.FromTimedelta(row.latency)
        made.latency.CopyFrom(latency)
    return made


def _sum(row: SpendSumRow) -> ExportedSpendSum:
    return ExportedSpendSum(
        day=row.day.isoformat(),
        method=row.method,
        kind=SpendKind(row.kind).name,
        provider=row.provider,
        model=row.model,
        currency=row.currency,
        calls=row.calls,
        input_tokens=format(row.input_tokens, "f"),
        output_tokens=format(row.output_tokens, "f"),
        cost=format(row.cost, "f"),
    )


def _span(row: SpanRow) -> ExportedSpan:
    made = ExportedSpan(
        trace_id=row.trace_id.hex,
        span_id=span_name(row.span_id),
        parent_span_id="" if row.parent_span_id is None else span_name(row.parent_span_id),
        kind=_KINDS[row.kind],
        status=_STATUSES[row.status],
        start_time=timestamp(row.started_at),
        name=row.name,
        message=row.message or "",
        attributes=json.dumps(row.attributes, ensure_ascii=False),
    )
    made.duration.FromTimedelta(row.duration)
    return made
