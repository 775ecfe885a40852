"""Has the spans that handlers make themselves, by OpenTelemetry's API, lie under their attempts: in the worker's own traces, sampled alike.

Imported where somebody wants spans, and only there. An attempt is the current span of its handler's context, so that instrumented
clients send its position along; it is made when somebody asks, for most handlers never do.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from rowcall import context as calls
from rowcall.telemetry import conventions
from rowcall.telemetry.spans import Spans
from rowcall_worker.serving.attempt import AttemptState


class HandlerSpans:
    """Spans of handlers, told to the process's."""

    def __init__(self, spans: Spans) -> None:
        """Args:
        spans: Where they are told.
        """
        self._spans = spans

    def enter(self, attempt: AttemptState) -> None:
        """Makes the attempt the parent of spans that are begun in the running context, which must be nobody else's."""
        context.attach(trace.set_span_in_context(_AttemptsSpan(attempt), context.Context()))

    def install(self) -> None:
        """Makes what handlers get by `opentelemetry.trace.get_tracer` tell spans here, unless somebody has made it tell them elsewhere."""
        if _PROVIDED.told_to is None and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            provider = TracerProvider(
                # What is begun outside of an attempt is not the worker's to tell.
                sampler=ParentBased(ALWAYS_OFF),
                resource=self._spans.resource,
                shutdown_on_exit=False,
            )
            provider.add_span_processor(_PROVIDED)
            trace.set_tracer_provider(provider)
        _PROVIDED.told_to = self._spans

    def leave(self) -> None:
        """Has them told nowhere any more."""
        if _PROVIDED.told_to is self._spans:
            _PROVIDED.told_to = None


class _AttemptsSpan(trace.NonRecordingSpan):
    """Where an attempt is in its trace, for spans below it."""

    def __init__(self, attempt: AttemptState) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self._attempt = attempt
        self._found: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        if self._found is None:
            position = self._attempt.call.trace
            self._found = SpanContext(
                int(position.trace_id, 16),
                int(position.span_id, 16),
                # Its own span is made later, and not by the SDK.
                is_remote=True,
                trace_flags=TraceFlags(TraceFlags.SAMPLED if position.sampled else TraceFlags.DEFAULT),
                trace_state=TraceState.from_header([position.tracestate or ""]),
            )
        return self._found


class _Provided(SpanProcessor):
    """Hands what handlers have ended to the process's spans: those of the worker that was started last."""

    def __init__(self) -> None:
        self.told_to: Spans | None = None

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:  # noqa: ARG002  the SDK names it
        """Has a span that is begun say whose it is, as ours do."""
        call = calls.current()
        if call is not None:
            span.set_attribute(conventions.TENANT, call.tenant)
            span.set_attribute(conventions.OPERATION, call.operation or "")

    def on_end(self, span: ReadableSpan) -> None:
        """Takes a span that is finished."""
        if self.told_to is not None and span.context is not None and span.context.trace_flags.sampled:
            self.told_to.put(span)


_PROVIDED: Final = _Provided()
