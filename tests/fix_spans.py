"""Fixtures: what an exporter of spans receives, of services in the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rowcall.telemetry.sampling import Sampling
from rowcall.telemetry.spans import Limits, Spans
from rowcall_gateway.edge.telemetry import Traces
from tests.support.collector import Collector
from tests.support.waiting import until

_SECONDS = 20.0


class Told:
    """Spans that a service has told, as its exporter has received them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.spans = Spans(
            {"spans": self._exporter}, resource=Resource({"service.name": "test"}), limits=Limits(delay=0.01)
        )
        self.sampling = Sampling(0, asked=1000)
        """Those of callers who ask."""
        self.traces = Traces(self.spans, self.sampling)

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    async def some(self, count: int, name: str | None = None) -> list[ReadableSpan]:
        """So many, or so many of a name, once they are there: a span is told a moment after its call."""

        def found() -> list[ReadableSpan]:
            return [span for span in self.all() if name in (None, span.name)]

        await until(lambda: len(found()) >= count)
        assert len(found()) == count, [span.name for span in self.all()]
        return found()

    async def one(self, name: str | None = None) -> ReadableSpan:
        """The only one."""
        [span] = await self.some(1, name)
        return span


class Crowded(SpanExporter):
    """Spans of which the first finds no room, while there is room for all behind it; and their exporter."""

    def __init__(self) -> None:
        self.names: list[str] = []
        """Of those that it has received: two of its own, and then a test's."""
        self._begun, self._free, self._emptied = threading.Event(), threading.Event(), threading.Event()
        self.spans = Spans(
            {"spans": self}, resource=Resource({"service.name": "test"}), limits=Limits(waiting=1, batch=1, delay=0.01)
        )
        # One is with the exporter, and one waits for it: no more than that do.
        self.spans.put(ReadableSpan("first"))
        assert self._begun.wait(_SECONDS)
        self.spans.put(ReadableSpan("second"))
        self._put = self.spans.put
        self.spans.put = self._put_then_make_room  # type: ignore[method-assign]

    def _put_then_make_room(self, span: ReadableSpan, below: Collection[str] | None = None) -> Collection[str]:
        taken = self._put(span, below)
        self._free.set()
        assert self._emptied.wait(_SECONDS)
        return taken

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        self._begun.set()
        self._free.wait(_SECONDS)
        self.names += [span.name for span in spans]
        if "second" in self.names:
            self._emptied.set()
        return SpanExportResult.SUCCESS


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    """A span's."""
    return dict(span.attributes or {})


def trace_of(span: ReadableSpan) -> str:
    """The id of its trace, 32 hex digits."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def id_of(span: ReadableSpan) -> str:
    """Its own id, 16 hex digits."""
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    """The id of what caused it, 16 hex digits; None: nothing did."""
    return None if span.parent is None else f"{span.parent.span_id:016x}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Receives what services send over OTLP."""
    made = Collector()
    yield made
    made.stop()


@pytest.fixture
def crowded() -> Iterator[Crowded]:
    """Where what is told first is dropped."""
    made = Crowded()
    yield made
    made.spans.shutdown()


@pytest.fixture
def told() -> Iterator[Told]:
    """What services tell that were started with it."""
    made = Told()
    yield made
    made.spans.shutdown()
