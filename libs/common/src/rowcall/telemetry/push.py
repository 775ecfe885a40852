"""Sends what a process has counted to whoever takes metrics, every so often. Made by `environment`, where somebody wants metrics over OTLP;
started and ended with the operations port's block (`rowcall.ops.port`).

What is counted is read in the event loop, as the page /metrics reads it, and sent by a thread of its own, one batch at a time. Where an exporter is
slow, unreachable, or fails, a batch is dropped and counted (rowcall.telemetry.dropped); the next one says the same and more. Nobody waits
for it, but for the end of the process, for a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial
from queue import SimpleQueue
from typing import Final

import structlog
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource

from rowcall.apart import in_thread
from rowcall.rounds import come_round
from rowcall.telemetry.otlp_metrics import metrics_data
from rowcall.telemetry.taking import Taking, dropped, unobserved
from rowcall.telemetry.tallies import Tally

METRICS: Final = "metrics"
"""What batches that were dropped are counted by."""

LAST_SECONDS: Final = 1.0
"""Seconds that the exporter has for the last batch, as the process ends."""

_log = structlog.get_logger(__name__)


class MetricsPush:
    """Sends the metrics of a process. Start it once, then end it; both in the event loop in which things are counted."""

    def __init__(self, exporter: MetricExporter, *, resource: Resource, every: float) -> None:
        """
        Args:
            exporter: Who takes them.
            resource: Who this process is.
            every: Seconds from one batch to the next.
        """
        self._exporter = exporter
        self._resource = resource
        self._every = every
        self._tallies: Sequence[Tally] = ()
        self._started = 0
        self._waiting: SimpleQueue[MetricsData | None] = SimpleQueue()
        self._busy = False
        self._taking = Taking(METRICS, METRICS)
        self._telling: asyncio.Task[None] | None = None
        # A daemon: an exporter that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="rowcall-metrics", daemon=True)

    def start(self, tallies: Sequence[Tally]) -> None:
        """Begins to send these."""
        self._tallies = tallies
        self._started = time.time_ns()
        self._thread.start()
        telling = come_round("metrics over OTLP", self._tell, self._every, after=self._every)
        self._telling = asyncio.get_running_loop().create_task(telling, name="metrics over OTLP")

    async def end(self) -> None:
        """Sends them once more, and waits LAST_SECONDS for that at the most."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait({self._telling})
        try:
            await self._tell()
        except Exception as error:  # noqa: BLE001  the process ends all the same
            _log.warning("the last metrics are not sent", exc_info=error)
        self._waiting.put(None)
        await in_thread(self._thread.join, LAST_SECONDS)
        # What it still waits for, it gives up.
        await in_thread(self._exporter.shutdown)

    async def _tell(self) -> None:
        if self._busy:
            # The one before is not taken yet: two at a time would be as late, and the next one says it all.
            dropped(1, METRICS)
            return
        batch = metrics_data(self._tallies, resource=self._resource, started=self._started, now=time.time_ns())
        self._busy = True
        self._waiting.put(batch)

    def _run(self) -> None:
        unobserved()
        while (batch := self._waiting.get()) is not None:
            self._taking.hand_on(partial(self._export, batch), 1)
            self._busy = False

    def _export(self, batch: MetricsData) -> bool:
        return self._exporter.export(batch) is MetricExportResult.SUCCESS
