"""Spans of a process: made afterwards with the times that were taken, and told to exporters that nobody waits for.

A service tells a span when what it is about is over and it is known what came of it, in one call: a span that the SDK records while
something runs costs each call and job twice to ten times as much, also where it is thrown away (docs/adr/0042). What is told is
an OpenTelemetry span all the same, as exporters of the SDK take it. Made by `environment`, where somebody wants spans.

Each exporter has a bounded buffer, and a thread that empties it. Where an exporter is slow, unreachable, or fails, what does not fit and
what was not taken is dropped and counted (rowcall.telemetry.dropped); nobody hears of it otherwise, and nobody waits, but for the end of
the process, for some seconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from queue import Empty, SimpleQueue
from typing import Final, Literal, NamedTuple, TypeAlias

import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from rowcall.telemetry.taking import Taking, dropped, unobserved

WAITING: Final = 2048
BATCH: Final = 512
DELAY_MS: Final = 5000
"""As the SDK has them, where OTEL_BSP_MAX_QUEUE_SIZE, …_MAX_EXPORT_BATCH_SIZE and …_SCHEDULE_DELAY say nothing."""

LAST_SECONDS: Final = 4.0
"""Seconds that all exporters together have for what is left, as the process ends."""

Kind: TypeAlias = Literal["server", "client", "producer", "consumer"]
"""What something was to whoever caused it."""

_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NO_STATE: Final = TraceState()
_FINE: Final = Status(StatusCode.UNSET)

_log = structlog.get_logger(__name__)


class Limits(NamedTuple):
    """How much is kept for an exporter, and how it is handed on."""

    waiting: int = WAITING
    """Spans that wait; what comes beyond is dropped. Some 2 MB."""
    batch: int = BATCH
    """Spans that are handed on at a time at most."""
    delay: float = DELAY_MS / 1000
    """Seconds after which what waits is handed on, however little it is."""


class Spans:
    """What a process tells its spans to. May be told from any thread; telling never waits and never fails."""

    def __init__(
        self, exporters: Mapping[str, SpanExporter], *, resource: Resource, limits: Limits | None = None
    ) -> None:
        """
        Args:
            exporters: Who takes spans, by what is counted where one does not (`rowcall.telemetry.dropped`).
            resource: Who this process is.
            limits: Of each exporter; None: as the SDK has them.
        """
        self._resource = resource
        self._buffers = [_Buffer(what, exporter, limits or Limits()) for what, exporter in exporters.items()]
        self._scopes: dict[str, InstrumentationScope] = {}

    def tell(
        self,
        scope: str,
        name: str,
        kind: Kind,
        *,
        trace_id: str,
        span_id: str,
        parent_id: str | None,
        started: int,
        ended: int,
        attributes: Mapping[str, str | int | float | bool],
        error: str | None = None,
        tracestate: str | None = None,
        linked: bool = False,
        below: Collection[str] | None = None,
    ) -> Collection[str]:
        """Tells of something that is over.

        Args:
            scope: Which part of us tells: "rowcall.gateway".
            name: As the conventions name such spans.
            kind: What it was to whoever caused it.
            trace_id: 32 hex digits.
            span_id: 16 hex digits, its own.
            parent_id: 16 hex digits, of what caused it, in the same trace; None: nothing did.
            started: When it began, in nanoseconds of Unix time.
            ended: When it was over, not before that.
            attributes: What is known of it, by the names of `rowcall.telemetry.conventions`.
            error: That it failed, and of what, in a word; None: it did not.
            tracestate: The vendors' part of the trace's context.
            linked: Whether it is linked to what caused it, and has no parent.
            below: What telling of its parent has returned, where that was told of here too: whoever has dropped that, drops this one;
                None: its parent was not.

        Returns:
            Whose it waits for, by what is counted of each; the others have dropped it.
        """
        trace, state = int(trace_id, 16), _NO_STATE if tracestate is None else TraceState.from_header([tracestate])
        above = None if parent_id is None else SpanContext(trace, int(parent_id, 16), True, _SAMPLED, state)  # noqa: FBT003
        found = self._scopes.get(scope)
        if found is None:
            found = self._scopes[scope] = InstrumentationScope(scope)
        return self.put(
            ReadableSpan(
                name,
                SpanContext(trace, int(span_id, 16), False, _SAMPLED, state),  # noqa: FBT003
                None if linked else above,
                self._resource,
                attributes,
                links=(Link(above),) if linked and above is not None else (),
                kind=_KINDS[kind],
                status=_FINE if error is None else Status(StatusCode.ERROR, error),
                start_time=started,
                end_time=ended,
                instrumentation_scope=found,
            ),
            below,
        )

    def put(self, span: ReadableSpan, below: Collection[str] | None = None) -> Collection[str]:
        """Takes a span that is finished already; `below` and what it returns are as in `tell`."""
        taken = []
        for buffer in self._buffers:
            if below is not None and buffer.what not in below:
                # Without its parent it would hang on nothing that anybody has.
                dropped(1, buffer.what)
            elif buffer.put(span):
                taken.append(buffer.what)
        return taken

    @property
    def resource(self) -> Resource:
        """Who this process is."""
        return self._resource

    def shutdown(self) -> None:
        """Hands on what is left, within LAST_SECONDS; what is not taken by then is dropped and counted. Waits: for a thread."""
        until = time.monotonic() + LAST_SECONDS
        for buffer in self._buffers:
            buffer.end()
        for buffer in self._buffers:
            buffer.close(max(until - time.monotonic(), 0))


class _Buffer:
    """What waits for one exporter, and the thread that hands it on. Nothing here takes a lock but to count what is dropped."""

    def __init__(self, what: str, exporter: SpanExporter, limits: Limits) -> None:
        self.what = what
        """What its dropped spans are counted by."""
        self._exporter = exporter
        self._limits = limits
        self._kept: deque[ReadableSpan] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._ending = False
        self._given_up = False
        self._taking = Taking("spans", what)
        # A daemon: an exporter that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"rowcall-{what}", daemon=True)
        self._thread.start()

    def put(self, span: ReadableSpan) -> bool:
        """Keeps a span; drops it where there is no room. Whether it is kept."""
        if self._ending or len(self._kept) >= self._limits.waiting:
            self._dropped(1)
            return False
        self._kept.append(span)
        if len(self._kept) == self._limits.batch:
            self._wake.put(None)
        return True

    def end(self) -> None:
        """Takes no more, and hands on what is left."""
        self._ending = True
        self._wake.put(None)

    def close(self, seconds: float) -> None:
        """Waits for that, so long at most, and lets the exporter go."""
        self._thread.join(seconds)
        self._given_up = True
        self._dropped(len(self._kept))
        try:
            self._exporter.shutdown()
        except Exception as error:  # noqa: BLE001  the process ends all the same
            _log.warning("an exporter of spans did not end as it should", kind=self.what, exc_info=error)

    def _run(self) -> None:
        unobserved()
        while not self._ending:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=self._limits.delay)
            while self._kept and not self._given_up:
                self._hand_on()

    def _hand_on(self) -> None:
        batch = [self._kept.popleft() for _ in range(min(len(self._kept), self._limits.batch))]
        self._taking.hand_on(lambda: self._exporter.export(batch) is SpanExportResult.SUCCESS, len(batch))

    def _dropped(self, count: int) -> None:
        dropped(count, self.what)
