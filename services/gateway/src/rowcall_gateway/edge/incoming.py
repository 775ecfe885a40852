"""One call as it comes in: who, how, until when, and what has become of it so far.

The interceptor makes it and binds it; handlers fill in what they learn, and the request line and the error envelope
are written from it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from rowcall.audit.model import Act
from rowcall.tracing import TraceContext
from rowcall_gateway.edge import in_time
from rowcall_gateway.edge.identity import Principal, ServicerContext
from rowcall_gateway.edge.metadata import OPERATION, CallMetadata
from rowcall_gateway.edge.telemetry import CallSpan, Sending


@dataclass(slots=True)
class IncomingCall:
    """A call that is being served."""

    context: ServicerContext
    """gRPC's own."""
    metadata: CallMetadata
    """What it brought along."""
    principal: Principal
    """Whose it is."""
    trace: TraceContext
    """Its position in the trace: what the row keeps, but for a span between the two (`sending`)."""
    repeatable: bool
    """Whether gRPC's own retries may repeat it: reads, and calls with a key."""
    request_id: str | None
    """Its idempotency key, from the metadata or, once it is decoded, from the message."""
    operation: str | None = None
    """The name of its job, once that is durable."""
    span: CallSpan | None = None
    """What is told of it as a span; None: nobody wants spans."""

    @property
    def tenant(self) -> str:
        """Whose data it may touch."""
        return self.principal.tenant

    @property
    def act(self) -> Act:
        """Who does what it asks for, as is recorded of actions."""
        principal = self.principal
        return Act(
            actor=principal.actor,
            credential=principal.credential,
            roles=tuple(sorted(principal.roles)),
            reason=self.metadata.reason,
            trace_id=self.trace.trace_id,
        )

    def sending(self, queue: str) -> Sending | None:
        """What is told as a span of a job that it submits to a queue, or of several, to "" where the queues differ; None: nothing."""
        return None if self.span is None else self.span.send(queue)

    def remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if there is none."""
        # None where the caller set no deadline, whatever the stubs say.
        remaining: float | None = self.context.time_remaining()
        return remaining

    def name_operation(self, name: str) -> Awaitable[None] | None:
        """Tells the caller the name of its job, which is durable now; what is returned, if anything, is to be awaited.

        With a key the headers are held back until the answer: early headers commit a call, and gRPC would no longer
        repeat it. Without one that is just what is wanted, because a repetition would submit it twice.
        """
        self.operation = name
        in_time.written()
        self.context.set_trailing_metadata(((OPERATION, name),))
        return None if self.request_id is not None else self.context.send_initial_metadata(((OPERATION, name),))


_current: Final[ContextVar[IncomingCall]] = ContextVar("rowcall_gateway_call")


def bind(call: IncomingCall) -> None:
    """Makes a call the current one of the task that serves it; the task serves no other."""
    _current.set(call)


def current() -> IncomingCall:
    """The call that is being served.

    Raises:
        LookupError: None is: only handlers behind the interceptor may ask.
    """
    return _current.get()
