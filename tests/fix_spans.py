"""Fixtures: what an exporter of spans receives, of services in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rowcall.telemetry.sampling import Sampling
from rowcall.telemetry.spans import Limits, Spans
from rowcall_gateway.edge.telemetry import Traces
from tests.support.collector import Collector
from tests.support.waiting import until


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
def told() -> Iterator[Told]:
    """What services tell that were started with it."""
    made = Told()
    yield made
    made.spans.shutdown()
