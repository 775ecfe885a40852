"""Spans of the gateway's calls: one of each call, and under it one of what it submits, whose id is the parent that the row carries.

They are told when the call has ended, by ourselves and not by opentelemetry-instrumentation-grpc, which records one for every call while
it runs (docs/adr/0042): of calls whose trace is sampled, and of those that failed by a fault of the server's. Health checks and reflection
have none, nor do calls that are refused for coming too late: there is no time for it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import grpc

from rowcall.errors import reason_name
from rowcall.telemetry import conventions, metrics
from rowcall.telemetry.sampling import Sampling
from rowcall.tracing import TraceContext, new_span_id
from rowcall.v1.error_reason_pb2 import ErrorReason

if TYPE_CHECKING:
    from rowcall.telemetry.spans import Spans

SCOPE: Final = "rowcall.gateway"

# What OpenTelemetry's conventions count as a server's failure; the other codes are its callers'.
_SERVER_ERRORS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_STILL_RUNNING: Final = reason_name(ErrorReason.ERROR_REASON_STILL_RUNNING)


class Traces:
    """Begins the spans of calls. One a gateway; there is none where nobody wants spans."""

    def __init__(self, spans: Spans, sampling: Sampling) -> None:
        """
        Args:
            spans: Where they are told.
            sampling: Says which traces are recorded.
        """
        self.spans = spans
        self._sampling = sampling

    def begin(self, metadata: Iterable[tuple[str, str | bytes]]) -> CallSpan:
        """A call has come: what will be told of it, in its caller's trace or in one that begins here."""
        above = TraceContext.found(metadata)
        trace = TraceContext.mint() if above is None else above
        asked = trace.sampled
        sampled = self._sampling.samples(trace.trace_id, asked=asked, root=above is None)
        if sampled is not asked:
            trace = trace.marked(sampled=sampled)
        return CallSpan(self.spans, trace, root=above is None, sampled=sampled)


class CallSpan:
    """What is known of a call for its spans."""

    __slots__ = ("_root", "_sampled", "_sending", "_spans", "_started", "trace")

    def __init__(self, spans: Spans, trace: TraceContext, *, root: bool, sampled: bool) -> None:
        """
        Args:
            spans: Where they are told.
            trace: Its caller's position in the trace; marked as it is recorded here.
            root: Whether it has begun the trace, and has no caller in it.
            sampled: Whether the trace is recorded.
        """
        self.trace = trace
        self._spans = spans
        self._root = root
        self._sampled = sampled
        self._started = time.time_ns()
        self._sending: Sending | None = None

    def send(self, queue: str) -> Sending:
        """It submits a job, or several at once, to a queue; empty: to more than one."""
        self._sending = Sending(self.trace.child(), queue)
        return self._sending

    def end(
        self,
        method: str,
        code: grpc.StatusCode,
        reason: str | None,
        *,
        tenant: str | None,
        actor: str | None,
        request_id: str | None,
        operation: str | None,
    ) -> None:
        """Tells of it, if it is sampled or has failed. A call whose job goes on has not.

        Args:
            method: As "package.Service/Method"; `_OTHER`: there is none.
            code: How it ended.
            reason: ErrorInfo.reason, where it was not answered.
            tenant: Whose it is, as far as is known; likewise the others.
            actor: Who triggered it.
            request_id: Its idempotency key.
            operation: Its job.
        """
        failed = code in _SERVER_ERRORS and reason != _STILL_RUNNING
        if not (failed or self._sampled):
            return
        ended = time.time_ns()
        error = (reason or code.name) if failed else None
        whose = _known({conventions.TENANT: tenant, conventions.OPERATION: operation})
        attributes = _known(
            {
                conventions.RPC_SYSTEM: metrics.GRPC,
                conventions.RPC_METHOD: method,
                conventions.RPC_STATUS_CODE: code.name,
                conventions.ERROR_TYPE: code.name if failed else None,
                conventions.REASON: reason,
                conventions.ACTOR: actor,
                conventions.REQUEST_ID: request_id,
            }
        )
        trace, span_id = self.trace, new_span_id()
        taken = self._spans.tell(
            SCOPE,
            metrics.GRPC if method == metrics.UNKNOWN_METHOD else method,
            "server",
            trace_id=trace.trace_id,
            # Of those few that are told.
            span_id=span_id,
            parent_id=None if self._root else trace.span_id,
            started=self._started,
            # The clock may be set back meanwhile.
            ended=max(ended, self._started),
            attributes=attributes | whose,
            error=error,
            tracestate=trace.tracestate,
        )
        if self._sending is not None:
            self._sending.tell(self._spans, span_id, ended, error or code.name, whose, below=taken)


def _known(attributes: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value}


class Sending:
    """What is known of a submission for its span."""

    __slots__ = ("_attributes", "_ended", "_queue", "_started", "position")

    def __init__(self, position: TraceContext, queue: str) -> None:
        """
        Args:
            position: What the row carries: its own position in its trace.
            queue: Where to; empty: to more than one.
        """
        self.position = position
        self._queue = queue
        self._started = time.time_ns()
        self._ended: int | None = None
        self._attributes: Mapping[str, str | int] = {}

    def written(self, attributes: Mapping[str, str | int]) -> None:
        """The row is durable, or another one that the call's key names.

        Args:
            attributes: What is known of it, by their names.
        """
        self._ended = time.time_ns()
        self._attributes = attributes

    def tell(
        self, spans: Spans, parent_id: str, ended: int, error: str, whose: Mapping[str, str], *, below: Collection[str]
    ) -> None:
        """Tells of it, at the end of its call.

        Args:
            spans: Where.
            parent_id: Its call's.
            ended: When the call was over.
            error: What the call ended with, where nothing was written.
            whose: What is known of the call.
            below: What telling of the call's has returned.
        """
        written = self._ended is not None
        position, queue = self.position, self._queue
        known = {
            conventions.MESSAGING_SYSTEM: metrics.ROWCALL,
            conventions.MESSAGING_OPERATION: metrics.SEND,
            conventions.MESSAGING_OPERATION_TYPE: metrics.SEND,
        }
        spans.tell(
            SCOPE,
            f"{metrics.SEND} {queue}" if queue else metrics.SEND,
            "producer",
            trace_id=position.trace_id,
            span_id=position.span_id,
            parent_id=parent_id,
            started=self._started,
            ended=max(ended if self._ended is None else self._ended, self._started),
            attributes={
                **known,
                **whose,
                **self._attributes,
                **({conventions.MESSAGING_DESTINATION: queue} if queue else {}),
                **({} if written else {conventions.ERROR_TYPE: error}),
            },
            error=None if written else error,
            tracestate=position.tracestate,
            below=below,
        )
