"""What a process tells its spans to: what exporters receive, and what becomes of it where they do not take it."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from rowcall.telemetry import metrics, spans, tallies
from rowcall.telemetry.spans import Limits, Spans

TRACE, SPAN, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"
SECONDS = 20.0


class Exporter(SpanExporter):
    """Takes spans, as a test says."""

    def __init__(self, take: Callable[[], SpanExportResult] = lambda: SpanExportResult.SUCCESS) -> None:
        self.batches: list[list[ReadableSpan]] = []
        self.ended = False
        self._take = take

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        taken = self._take()
        self.batches.append(list(spans))
        return taken

    def shutdown(self) -> None:
        self.ended = True


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is kept, and the last spans wait for less."""
    monkeypatch.setattr(tallies, "_kept", True)
    monkeypatch.setattr(spans, "LAST_SECONDS", 0.3)


def made(limits: Limits | None = None, **exporters: SpanExporter) -> Spans:
    return Spans(exporters, resource=Resource({"service.name": "x"}), limits=limits or Limits(delay=0.01))


def tell(to: Spans, count: int = 1, **changes: object) -> None:
    said: dict[str, object] = {
        "trace_id": TRACE,
        "span_id": SPAN,
        "parent_id": ABOVE,
        "started": 5,
        "ended": 7,
    } | changes
    for _ in range(count):
        to.tell("rowcall.x", "do it", "consumer", **({"attributes": {"a": 1, "b": "c"}} | said))  # type: ignore[arg-type]


def wait(true: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def dropped(what: str) -> float:
    return metrics.TELEMETRY_DROPPED.value(what)


def test_what_is_told_arrives_as_it_was_told() -> None:
    exporter = Exporter()
    told = made(one=exporter)
    tell(told, error="BROKEN", tracestate="a=1,b=2")
    told.shutdown()

    [[span]] = exporter.batches
    encoded = encode_spans([span]).resource_spans[0]
    [sent] = encoded.scope_spans[0].spans
    assert (sent.trace_id.hex(), sent.span_id.hex(), sent.parent_span_id.hex()) == (TRACE, SPAN, ABOVE)
    assert (sent.name, sent.kind, sent.start_time_unix_nano, sent.end_time_unix_nano) == ("do it", 5, 5, 7)
    assert (sent.status.code, sent.status.message, sent.trace_state) == (2, "BROKEN", "a=1,b=2")
    assert {each.key: each.value.string_value or each.value.int_value for each in sent.attributes} == {"a": 1, "b": "c"}
    assert (encoded.scope_spans[0].scope.name, encoded.resource.attributes[0].value.string_value) == ("rowcall.x", "x")
    assert exporter.ended


def test_one_without_a_cause_has_no_parent_and_one_that_is_linked_has_a_link() -> None:
    exporter = Exporter()
    told = made(one=exporter)
    tell(told, parent_id=None)
    tell(told, linked=True)
    told.shutdown()

    root, linked = (
        encode_spans([span for batch in exporter.batches for span in batch]).resource_spans[0].scope_spans[0].spans
    )
    assert (root.parent_span_id, list(root.links), root.status.code) == (b"", [], 0)
    assert linked.parent_span_id == b""
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in linked.links] == [(TRACE, ABOVE)]


def test_what_waits_is_handed_on_after_a_while_and_at_once_when_it_is_a_batch() -> None:
    exporter = Exporter()
    told = made(Limits(delay=60, batch=3), one=exporter)
    tell(told, 3)
    wait(lambda: [len(batch) for batch in exporter.batches] == [3])
    told.shutdown()
    slow = Exporter()
    told = made(Limits(delay=0.02, batch=3), one=slow)
    tell(told)
    wait(lambda: [len(batch) for batch in slow.batches] == [1])
    told.shutdown()


def test_one_exporter_that_fails_and_one_that_hangs_are_nobody_elses_affair() -> None:
    gate, raising = threading.Event(), [True]

    def hang() -> SpanExportResult:
        gate.wait(SECONDS)
        return SpanExportResult.SUCCESS

    def fail() -> SpanExportResult:
        if raising[0]:
            raise ConnectionError("away")
        return SpanExportResult.FAILURE

    before = {what: dropped(what) for what in ("fails", "hangs", "fine")}
    fine, hangs = Exporter(), Exporter(hang)
    with capture_logs() as lines:
        told = made(Limits(delay=0.01, waiting=10, batch=5), fails=Exporter(fail), hangs=hangs, fine=fine)
        tell(told)
        wait(lambda: dropped("fails") - before["fails"] == 1)
        raising[0] = False
        tell(told)
        wait(lambda: dropped("fails") - before["fails"] == 2)
        wait(lambda: sum(map(len, fine.batches)) == 2)
        began = time.monotonic()
        told.shutdown()
        assert time.monotonic() - began < SECONDS / 2
    assert [line["event"] for line in lines if line.get("kind") == "fails"] == [
        "spans are dropped: their exporter does not take them"
    ], "not for each batch"
    assert hangs.ended
    assert dropped("fine") == before["fine"]
    gate.set()


def test_what_does_not_fit_is_dropped_and_counted_and_takes_no_room() -> None:
    gate = threading.Event()

    def hang() -> SpanExportResult:
        gate.wait(SECONDS)
        return SpanExportResult.SUCCESS

    before, exporter = dropped("hangs"), Exporter(hang)
    told = made(Limits(delay=0.001, waiting=50, batch=10), hangs=exporter)
    tell(told)
    wait(lambda: not told._buffers[0]._kept)
    tell(told, 50)
    tracemalloc.start()
    try:
        tell(told, 5000)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert dropped("hangs") - before == 5000
    assert grown < 100_000
    # What was kept is not taken at the end either, and is counted then.
    told.shutdown()
    assert dropped("hangs") - before == 5050
    tell(told)
    assert dropped("hangs") - before == 5051
    gate.set()


def test_what_is_below_a_span_that_was_dropped_is_dropped_with_it_where_that_was_dropped() -> None:
    gate = threading.Event()

    def hang() -> SpanExportResult:
        gate.wait(SECONDS)
        return SpanExportResult.SUCCESS

    before, full, fine = dropped("full"), Exporter(hang), Exporter()
    told = made(Limits(delay=0.001, waiting=1, batch=1), full=full, fine=fine)
    tell(told)
    wait(lambda: not told._buffers[0]._kept)
    tell(told)
    wait(lambda: len(fine.batches) == 2)
    taken = told.tell(
        "rowcall.x", "above", "server", trace_id=TRACE, span_id=ABOVE, parent_id=None, started=5, ended=7, attributes={}
    )
    assert list(taken) == ["fine"]
    gate.set()
    wait(lambda: len(full.batches) == 2)
    tell(told, below=taken)
    told.shutdown()

    assert [[span.name for span in batch] for batch in full.batches] == [["do it"]] * 2
    assert [span.name for batch in fine.batches for span in batch] == ["do it", "do it", "above", "do it"]
    assert dropped("full") - before == 2


def test_the_end_waits_for_what_is_left_and_no_longer() -> None:
    def take() -> SpanExportResult:
        time.sleep(0.02)
        return SpanExportResult.SUCCESS

    exporter = Exporter(take)
    told = made(Limits(delay=60, batch=1000), one=exporter)
    tell(told, 100)
    told.shutdown()
    assert sum(map(len, exporter.batches)) == 100
