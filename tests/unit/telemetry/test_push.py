"""Metrics that are sent every so often: what is sent, and what becomes of it where nobody takes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from structlog.testing import capture_logs

from rowcall.telemetry import metrics, push, tallies
from rowcall.telemetry.push import METRICS, MetricsPush
from rowcall.telemetry.tallies import Counter
from tests.support.waiting import until

OFTEN = 0.01
NEVER = 3600.0
"""Seconds."""


class Exporter(MetricExporter):
    """Takes metrics, as a test says."""

    def __init__(self, take: Callable[[], MetricExportResult] = lambda: MetricExportResult.SUCCESS) -> None:
        super().__init__()
        self.counts: list[float] = []
        self.ended = False
        self._take = take

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: Any) -> MetricExportResult:
        [resource] = metrics_data.resource_metrics
        [scope] = resource.scope_metrics
        [metric] = scope.metrics
        [point] = metric.data.data_points
        taken = self._take()
        self.counts.append(getattr(point, "value", -1))
        return taken

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        self.ended = True


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is kept."""
    monkeypatch.setattr(tallies, "_kept", True)


@pytest.fixture
def counter() -> Counter:
    made = Counter("rowcall.calls", "Calls.")
    made.add(1)
    return made


def dropped() -> float:
    return metrics.TELEMETRY_DROPPED.value(METRICS)


def hanging(go_on: threading.Event) -> Callable[[], MetricExportResult]:
    """What an exporter does that takes nothing until it may."""

    def hang() -> MetricExportResult:
        go_on.wait(60)
        return MetricExportResult.SUCCESS

    return hang


def made(exporter: MetricExporter, every: float) -> MetricsPush:
    return MetricsPush(exporter, resource=Resource({}), every=every)


async def test_what_is_counted_is_sent_every_so_often_and_at_the_end(counter: Counter) -> None:
    exporter = Exporter()
    sending = made(exporter, OFTEN)
    sending.start([counter])
    await until(lambda: len(exporter.counts) > 2)
    counter.add(4)
    await until(lambda: exporter.counts[-1] == 5)
    await sending.end()
    assert exporter.ended

    last = Exporter()
    sending = made(last, NEVER)
    sending.start([counter])
    await sending.end()
    assert last.counts == [5]


async def test_one_batch_is_sent_at_a_time_and_what_comes_meanwhile_is_dropped_and_counted(counter: Counter) -> None:
    before, go_on = dropped(), threading.Event()
    exporter = Exporter(hanging(go_on))
    sending = made(exporter, OFTEN)
    sending.start([counter])
    await until(lambda: dropped() >= before + 3)
    assert exporter.counts == []
    go_on.set()
    await until(lambda: len(exporter.counts) > 1)
    await sending.end()


async def test_the_end_waits_for_no_exporter_that_hangs(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "LAST_SECONDS", 0.2)
    go_on = threading.Event()
    exporter = Exporter(hanging(go_on))
    sending = made(exporter, NEVER)
    sending.start([counter])
    began = time.monotonic()
    await sending.end()
    assert time.monotonic() - began < 20
    assert exporter.ended
    go_on.set()


async def test_an_exporter_that_fails_is_told_of_once_and_when_it_takes_them_again(counter: Counter) -> None:
    before = dropped()
    answers = iter([MetricExportResult.FAILURE] * 3)

    def fail() -> MetricExportResult:
        found = next(answers, None)
        if found is None:
            return MetricExportResult.SUCCESS
        if dropped() == before:
            raise RuntimeError("the exporter's own fault")
        return found

    exporter = Exporter(fail)
    with capture_logs() as lines:
        sending = made(exporter, OFTEN)
        sending.start([counter])
        await until(lambda: len(exporter.counts) > 3)
        await sending.end()
    assert [line["event"] for line in lines] == [
        "metrics are dropped: their exporter does not take them",
        "metrics are taken again",
    ]
    assert dropped() >= before + 3
