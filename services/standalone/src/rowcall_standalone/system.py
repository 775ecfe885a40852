"""A gateway and workers in one process and one event loop: how they start together, what they tell of themselves, and in which order they end.

Made by `serve` and by `dev`. What each of them is, is its own affair: they get the settings that they would get as processes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, TypeVar

from rowcall import logs
from rowcall.apart import in_thread
from rowcall.catalogue.images import ImageError
from rowcall.errors import RowcallError
from rowcall.ops.standing import Service
from rowcall.settings import SettingsError
from rowcall.sharding import GATEWAY_WORKLOADS, WORKER_WORKLOADS, Router
from rowcall.telemetry.environment import (
    metrics_push_from_environment,
    sampling_from_environment,
    spans_from_environment,
)
from rowcall_gateway.edge.head_export import HeadExport
from rowcall_gateway.edge.telemetry import Traces
from rowcall_gateway.server import DEDICATED, Gateway
from rowcall_gateway.settings import GatewaySettings
from rowcall_standalone.errors import StandaloneError
from rowcall_worker import RegistrationError, Worker, WorkerSettings
from rowcall_worker.claiming.quarantine import Command
from rowcall_worker.settings import connections_apart
from rowcall_worker.shard import DEDICATED_CONNECTIONS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from rowcall.telemetry.push import MetricsPush
    from rowcall.telemetry.sampling import Sampling
    from rowcall.telemetry.spans import Spans

LAST_SECONDS: Final = 5.0
"""Seconds that whoever takes spans has for the last of them."""

_T = TypeVar("_T")

_GATEWAYS_SHARE: Final = 2 / 3
"""Of the grace, what the gateway has at most to let its calls end, while the workers go on with their jobs. What it leaves is
the workers'."""

_WRONG: Final = (ImageError, RegistrationError, SettingsError)
_REFUSALS: Final = (*_WRONG, OSError, RowcallError)


class CannotStart(StandaloneError):
    """Gateway or workers refuse to start; the message has what each of them says, once."""

    def __init__(self, refusals: Sequence[BaseException]) -> None:
        super().__init__("\n".join(dict.fromkeys(map(str, refusals))))
        self.is_wrong = any(isinstance(each, _WRONG) for each in refusals)
        """Whether settings, images or servicers are: starting it again would not mend them."""


class SystemTelemetry:
    """What both tell their spans to, which of them each tells, and what sends the process's metrics."""

    def __init__(
        self,
        service: str,
        *,
        asked: float,
        deployed_version: str | None = None,
        also: Mapping[str, SpanExporter] | None = None,
    ) -> None:
        """
        Args:
            service: Who the process says that it is, unless OpenTelemetry's variables say otherwise.
            asked: How many traces a second each of them records because their callers ask for it.
            deployed_version: What whoever deployed it calls its version; None: the release is told.
            also: Exporters beside OTLP, by what their spans are counted by where they are dropped.

        Raises:
            ValueError: The environment asks for something that this process does not have; the message names the variable.
        """
        told_version = deployed_version or version("rowcall-standalone")
        self.told_to: Spans | None = spans_from_environment(service, version=told_version, also=also)
        """None: nobody wants any."""
        self.push: MetricsPush | None = metrics_push_from_environment(service, version=told_version)
        """To be started and ended by the block in which the process tells of itself; None: nobody wants them sent."""
        # Each its own: what the gateway records of who asks must be no less for the worker to record.
        self.traces = None if self.told_to is None else Traces(self.told_to, sampling_from_environment(asked))
        """The gateway's."""
        self.sampling: Sampling = sampling_from_environment(asked)
        """The workers'."""

    async def end(self) -> None:
        """Hands on the last spans, for so long at the most."""
        if self.told_to is not None:
            await asyncio.wait({asyncio.ensure_future(in_thread(self.told_to.shutdown))}, timeout=LAST_SECONDS)


class System:
    """A gateway and workers. Start it once, then drain it; all in one event loop."""

    def __init__(
        self,
        gateway: GatewaySettings,
        worker: WorkerSettings,
        *,
        workers: int = 1,
        processes: int = 1,
        shares_port: bool = False,
        telemetry: SystemTelemetry | None = None,
        head_export: HeadExport | None = None,
        command: Command | None = None,
    ) -> None:
        """
        Args:
            gateway: The gateway's settings.
            worker: The workers'. Where one object is both, gateway and workers share one router to its databases.
            workers: How many workers there are, each with slots of its own.
            processes: How many processes like this one there are, which the servers must have connections for.
            shares_port: Whether these listen on one port.
            telemetry: Where both tell their spans, which is left to whoever made it to end; None: they make none.
            head_export: Sends heads of the audit over OTLP; None: nobody does.
            command: What executes the program anew for jobs whose workers died; None: they run alone in this process.
        """
        self._gateway_settings = gateway
        self._worker_settings = worker
        self._workers_wanted = workers
        self._processes = processes
        self._shares_port = shares_port
        self._telemetry = telemetry
        self._head_export = head_export
        self._command = command
        self._router: Router | None = None
        self._gateway: Gateway | None = None
        self._workers: list[Worker] = []
        self.services = []

    services: list[Service]
    """Those that were begun, for the operations port."""

    @property
    def port(self) -> int:
        """Where the gateway listens, once it is started."""
        return 0 if self._gateway is None else self._gateway.port

    async def start(self) -> None:
        """Starts all of them side by side; returns when the gateway serves and every worker has joined a shard.

        Neither waits for the other: while no database answers, the gateway says so to callers. Cancelled, or where one of them
        cannot start, those that have are left to `drain`.

        Raises:
            CannotStart: One of them refuses, or all do; with what to do.
            Exception: What a servicer's own code raises as it is registered.
        """
        try:
            await self._share_router()
        except _REFUSALS as error:
            raise CannotStart([error]) from error
        starting = [asyncio.create_task(_as("gateway", self._start_gateway()), name="start gateway")]
        starting += [
            asyncio.create_task(_as("worker", self._start_worker()), name="start worker")
            for _ in range(self._workers_wanted)
        ]
        try:
            await asyncio.wait(starting, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            # What has begun when another has failed ends before that is told: nothing starts behind a drain.
            failed = [task.exception() for task in starting if task.done() and not task.cancelled()]
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
        errors = [each for each in failed if each is not None]
        for each in errors:
            if not isinstance(each, _REFUSALS):
                raise each
        if errors:
            raise CannotStart(errors) from errors[0]

    async def drain(self, grace: timedelta) -> None:
        """Ends the gateway, whose callers wait for the workers, and then them; whatever of it was started.

        Args:
            grace: How long all of it may take, beside the gateway's notice to balancers. None at all: at once, and without
                notice.
        """
        began = time.monotonic()
        notice = timedelta(0)
        if self._gateway is not None and not grace:
            await asyncio.create_task(_as("gateway", self._gateway.stop()), name="stop gateway")
        elif self._gateway is not None:
            notice = self._gateway_settings.drain_notice
            await asyncio.create_task(
                _as("gateway", self._gateway.drain(grace * _GATEWAYS_SHARE)), name="drain gateway"
            )
        left = grace + notice - timedelta(seconds=time.monotonic() - began)
        # Calls may have taken their share of the grace and some more; jobs have theirs all the same.
        left = max(left, grace * (1 - _GATEWAYS_SHARE))
        await asyncio.gather(*(_as("worker", worker.drain(left)) for worker in self._workers))
        if self._router is not None:
            await self._router.close()

    async def _share_router(self) -> None:
        """One router, where both would have the same: the servers' room is then looked at for both together."""
        gateway, worker = self._gateway_settings, self._worker_settings
        if not isinstance(gateway, WorkerSettings) or gateway is not worker:
            return
        self._router = await Router.open(
            gateway,
            service="rowcall-serve",
            workloads=GATEWAY_WORKLOADS | WORKER_WORKLOADS,
            dedicated=self._workers_wanted * DEDICATED_CONNECTIONS + (DEDICATED if gateway.uses_hints else 0),
            processes=self._processes,
            beside=0 if self._command is None else connections_apart(worker) + DEDICATED_CONNECTIONS,
        )

    async def _start_gateway(self) -> None:
        gateway = Gateway(
            self._gateway_settings,
            router=self._router,
            traces=None if self._telemetry is None else self._telemetry.traces,
            head_export=self._head_export,
            shares_port=self._shares_port,
        )
        self.services.append(gateway)
        await gateway.start()
        self._gateway = gateway

    async def _start_worker(self) -> None:
        worker = Worker(
            self._worker_settings,
            router=self._router,
            command=self._command,
            spans=None if self._telemetry is None else self._telemetry.told_to,
            sampling=None if self._telemetry is None else self._telemetry.sampling,
        )
        self.services.append(worker)
        await worker.start()
        self._workers.append(worker)


async def _as(service: str, work: Awaitable[_T]) -> _T:
    """Does something as a service: its lines in the log are that service's. For a task's coroutine: the task has its own context."""
    logs.speak_for(service)
    return await work
