"""Spans as rows of the shard that has what they are about, for whoever looks at an action (docs/actions.md): an exporter beside OTLP's.

Best effort, like everything that is told: it writes from a thread that nobody waits for, over connections of its own, and what a shard does
not take is dropped and counted. Made by the programs, where the setting `activity` says so; the bounded buffer before it, and that
thread, are OpenTelemetry's or ours.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rowcall.telemetry.conventions import SHARD, TENANT
from rowcall.telemetry.taking import dropped

ACTIVITY: Final = "activity"
"""What dropped spans are counted by (rowcall.telemetry.dropped)."""

MAX_ATTRIBUTES: Final = 64
MAX_CHARS: Final = 1000
MOST_CHARS: Final = 16_000
"""Of a span's attributes, so many are kept, of a text so much, and so much of all together: those that fit, in their order."""
_SHORT: Final = 20
"""Characters of what is no text."""
_INTEGERS: Final = 2**63
"""OpenTelemetry's have 64 bits."""
_REMEMBERED: Final = 20_000
"""Spans whose tenants are remembered, for those below them that do not say it."""
_KEPT: Final = 1000
"""Spans that wait for one that says whose they are."""

_log = structlog.get_logger(__name__)


class ActivityLog(Protocol):
    """Where one shard keeps spans. Blocks; called from one thread at a time."""

    @property
    def shard(self) -> str:
        """The shard's name."""

    def write(self, spans: Sequence[Mapping[str, Any]]) -> None:
        """Keeps spans, each as `record_activity` takes it, those of tenants that live there; raises whatever may go wrong."""

    def close(self) -> None:
        """Ends its connection."""


class ActivityExporter(SpanExporter):
    """An exporter that gives each span to the shard of its tenant."""

    def __init__(self, logs: Collection[ActivityLog]) -> None:
        """Args:
        logs: Every shard's.
        """
        self._logs = {log.shard: log for log in logs}
        self._tenants: OrderedDict[tuple[int, int], str] = OrderedDict()
        """By trace and span."""
        self._unknown: list[ReadableSpan] = []
        self._away: set[str] = set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Writes finished spans; FAILURE where no shard took any. What one of several did not take is counted here.

        A span that does not say whose it is, as a handler's own, is the tenant's of the span that it is below; that may come with the
        next ones, and until then it is kept.
        """
        waiting, self._unknown = self._unknown, []
        waited = set(map(id, waiting))
        parts: defaultdict[str | None, list[Mapping[str, Any]]] = defaultdict(list)
        for span in spans:
            tenant = _said(span, TENANT)
            if tenant is not None:
                self._remember(span, tenant)
        # Those above come later than those below them.
        for span in sorted((*waiting, *spans), key=lambda span: span.start_time or 0):
            tenant = self._tenant(span)
            if tenant is not None and _has_times(span):
                parts[_said(span, SHARD)].append(_row(span, tenant))
            elif tenant is not None:
                # Of a handler's own: the statement would fail, and all that come with it be lost.
                dropped(1, ACTIVITY)
            elif id(span) in waited or len(self._unknown) >= _KEPT:
                dropped(1, ACTIVITY)
            else:
                self._unknown.append(span)
        return self._write(parts)

    def shutdown(self) -> None:
        """Ends the connections."""
        for log in self._logs.values():
            log.close()

    def _write(self, parts: Mapping[str | None, Sequence[Mapping[str, Any]]]) -> SpanExportResult:
        # Which shard it is of is not always known where a span is made: of those each shard keeps its tenants'.
        everywhere = parts.get(None, ())
        taken = failed = 0
        for shard, log in self._logs.items():
            rows = [*parts.get(shard, ()), *everywhere]
            if not rows:
                continue
            try:
                log.write(rows)
            except Exception as error:  # noqa: BLE001  whatever it is, the others are written
                failed += len(rows)
                if shard not in self._away:
                    self._away.add(shard)
                    _log.warning("spans are not kept: the shard does not take them", shard=shard, exc_info=error)
                continue
            taken += len(rows)
            if shard in self._away:
                self._away.discard(shard)
                _log.info("spans are kept again", shard=shard)
        if failed and not taken:
            return SpanExportResult.FAILURE
        dropped(failed, ACTIVITY)
        return SpanExportResult.SUCCESS

    def _tenant(self, span: ReadableSpan) -> str | None:
        said = _said(span, TENANT)
        if said is not None:
            return said
        if span.parent is None:
            return None
        found = self._tenants.get((span.parent.trace_id, span.parent.span_id))
        if found is not None:
            self._remember(span, found)
        return found

    def _remember(self, span: ReadableSpan, tenant: str) -> None:
        context = span.get_span_context()
        if context is None:
            return
        self._tenants[context.trace_id, context.span_id] = tenant
        while len(self._tenants) > _REMEMBERED:
            self._tenants.popitem(last=False)


def _said(span: ReadableSpan, name: str) -> str | None:
    value = (span.attributes or {}).get(name)
    return value if isinstance(value, str) and value else None


def _has_times(span: ReadableSpan) -> bool:
    """Whether its times are such as a row can have: nanoseconds of Unix time."""
    return all(time is None or 0 <= time < _INTEGERS for time in (span.start_time, span.end_time))


def _row(span: ReadableSpan, tenant: str) -> Mapping[str, Any]:
    """A span as `record_activity` takes it."""
    context = span.get_span_context()
    started, ended = span.start_time or 0, span.end_time or span.start_time or 0
    return {
        "tenant": tenant,
        "trace": f"{0 if context is None else context.trace_id:032x}",
        "span": f"{0 if context is None else context.span_id:016x}",
        "parent": None if span.parent is None else f"{span.parent.span_id:016x}",
        "kind": span.kind.value,
        "status": span.status.status_code.value,
        "started": started / 1e9,
        "took": max(ended - started, 0) / 1e9,
        "name": _text(span.name),
        "message": None if not span.status.description else _text(span.status.description),
        "attributes": _attributes(span.attributes or {}),
    }


def _attributes(given: Mapping[str, object]) -> Mapping[str, object]:
    kept: dict[str, object] = {}
    room = MOST_CHARS
    for name, value in islice(((name, value) for name, value in given.items() if name != TENANT), MAX_ATTRIBUTES):
        made = _value(value)
        size = len(name) + _chars(made)
        if size <= room:
            kept[_text(name)] = made
            room -= size
    return kept


def _chars(value: object) -> int:
    """About how long it is."""
    if isinstance(value, str):
        return len(value)
    return sum(map(_chars, value)) if isinstance(value, list) else _SHORT


def _value(value: object) -> object:
    """An attribute's value as JSON can have it."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        # Of one with thousands of digits neither Python nor Postgres makes a text.
        return value if -_INTEGERS <= value < _INTEGERS else _text(hex(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Sequence):
        return [_value(each) for each in value[:MAX_ATTRIBUTES]]
    return _text(str(value))


def _text(text: str) -> str:
    # What Postgres has no character for, and half of a character.
    return text[:MAX_CHARS].replace("\0", "").encode("utf-8", "replace").decode()
