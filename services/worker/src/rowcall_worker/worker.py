"""The worker: a server without a port, whose calls come from the queue.

`Worker` is what generated `add_…Servicer_to_server(servicer, worker)` accepts, and what a process (`rowcall_worker.main`)
or standalone starts and drains.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message

from rowcall.catalogue.images import Catalogue, load_catalogue
from rowcall.errors import RowcallError
from rowcall.incidents.model import Noted
from rowcall.incidents.recorder import Incidents
from rowcall.ops.standing import DRAINING, NO_SHARD, STARTING, Standing
from rowcall.probe.v1.probe_pb2_grpc import add_ProbeServiceServicer_to_server
from rowcall.queue.choice import queue_of
from rowcall.queue.depths import KnownDepths
from rowcall.queue.model import Program
from rowcall.settings import Problem, SettingsError
from rowcall.settings.files import WatchedFile
from rowcall.sharding import WORKER_WORKLOADS, Router
from rowcall.sharding.bounded import bounded
from rowcall.telemetry import metrics
from rowcall.telemetry.sampling import Sampling
from rowcall.telemetry.tallies import Labels, watch_all
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_worker import servicers
from rowcall_worker.claiming.quarantine import Apart, Command
from rowcall_worker.claiming.shares import Shares
from rowcall_worker.claiming.solitude import Solitude
from rowcall_worker.membership.looplag import LoopLag
from rowcall_worker.probe import ProbeServicer
from rowcall_worker.running.executor import Executor
from rowcall_worker.serving.descriptors import image_of
from rowcall_worker.serving.handlers import RegistrationError, Registry, Served
from rowcall_worker.serving.prices import Prices, PricesError, read_prices
from rowcall_worker.settings import WorkerSettings, connections_apart
from rowcall_worker.settling.figures import begin_at_zero
from rowcall_worker.shard import DEDICATED_CONNECTIONS, ShardWorker

if TYPE_CHECKING:
    from rowcall.telemetry.spans import Spans
    from rowcall_worker.running.handler_spans import HandlerSpans

_INCIDENT_PATIENCE: Final = 3.0
"""Seconds that a shard has to take incidents, before the next one is asked."""

_PROBE: Final = "rowcall.probe.v1.ProbeService"
_NO_PORT: Final = (
    "a worker has no port: its calls come from the queue; serve the servicer with grpc.aio.server for that"
)

_log = structlog.get_logger(__name__)


class Worker(grpc.aio.Server):
    """Runs the jobs of every shard with the servicers that were registered.

    Register servicers, then `start`; `drain` ends it. Every method is called in one event loop.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        router: Router | None = None,
        command: Command | None = None,
        apart: Apart | None = None,
        spans: Spans | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        """Args:
        settings: What to serve and how.
        router: An open one with the worker's workloads, which stays open; None: one of its own.
        command: What executes the program anew for suspects, where this process is nothing but a worker; None: they run
            alone in it, while it runs nothing else.
        apart: What makes it the process that was started for suspects; None: it is a worker as others are.
        spans: Where attempts are told of, and what handlers tell themselves; None: nobody wants spans.
        sampling: Says which traces are recorded; None: a part of all, and those of callers who ask, as the settings have it.
        """
        self._settings = settings
        self._command = command
        self._apart = apart
        self._spans = spans
        self._sampling = sampling or Sampling(asked=settings.traces_asked)
        self._handler_spans: HandlerSpans | None = None
        self._given_router = router
        self._router: Router | None = None
        """The router of its own."""
        self._registry = Registry()
        self._executor: Executor | None = None
        self._loop_lag: LoopLag | None = None
        self._incidents = Incidents("worker", self._write_incidents, version=version("rowcall-worker"))
        self._prices = Prices()
        self._price_watch: asyncio.Task[None] | None = None
        self._shards: list[ShardWorker] = []
        self._joining: set[asyncio.Task[None]] = set()
        self._started = False
        self._draining: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._known: Sequence[ShardWorker] = ()
        """All shards, joined or not."""
        self._leave_gauges: Callable[[], None] | None = None
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        """"{host}-{process}-{short id}": in rows, attempts and log lines."""
        self._made_at = time.monotonic()

    @property
    def registered(self) -> int:
        """How many handlers were registered so far."""
        return self._registry.size

    @property
    def service(self) -> str:
        """See rowcall.ops.standing.Service."""
        return "worker"

    @property
    def depths(self) -> Sequence[KnownDepths]:
        """See rowcall.ops.standing.Service."""
        return [shard.depths for shard in self._known]

    def standing(self) -> Standing:
        """Whether it claims jobs, by its shards. See rowcall.ops.standing.Service."""
        checks = {f"shard {shard.name}": shard.trouble for shard in self._known}
        if self._draining is not None:
            return Standing(DRAINING, checks)
        if not checks:
            return Standing(STARTING, checks)
        return Standing(NO_SHARD if all(checks.values()) else "", checks)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Message, Message]]
    ) -> None:
        """What generated code calls with a servicer's handlers.

        Raises:
            RegistrationError: A method streams, the service is registered already, or the worker was started.
        """
        self._check_not_started()
        self._registry.add_registered(service_name, method_handlers)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """What generated code calls too; and the way for handlers that are not generated.

        Raises:
            RegistrationError: The worker was started.
        """
        self._check_not_started()
        self._registry.add_generic(generic_rpc_handlers)

    def add_insecure_port(self, address: str) -> int:  # noqa: ARG002  gRPC names it
        """Refused: a worker has no port."""
        raise RegistrationError(_NO_PORT)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:  # noqa: ARG002
        """Refused: a worker has no port."""
        raise RegistrationError(_NO_PORT)

    async def start(self) -> None:
        """Begins to drain every shard; returns when at least one is joined, and each was tried.

        Raises:
            RegistrationError: Something cannot be served.
            ImageError: An image cannot be used.
            SettingsError: The pools are more than a server allows, or the price table cannot be used any more.
            RowcallError: SCHEMA_MISMATCH: a shard's schema is not one that this release works with.
        """
        self._check_not_started()
        served, catalogue = self._served()
        self._started = True
        try:
            await self._open(served, catalogue)
        except BaseException:
            await self._close()
            raise

    async def drain(self, grace: timedelta | None = None) -> None:
        """Claims no more, lets running jobs finish, hands back what has not ended in time, and leaves.

        No attempt is used up by what is handed back.

        Args:
            grace: How long to wait for running jobs; None: the settings'. That of the first call counts.
        """
        if self._draining is None:
            seconds = (self._settings.grace if grace is None else grace).total_seconds()
            self._draining = asyncio.create_task(self._drain(seconds), name="drain")
        await asyncio.shield(self._draining)

    async def stop(self, grace: float | None) -> None:
        """`drain`, as grpc.aio.Server has it: the grace in seconds, None for none."""
        await self.drain(timedelta(seconds=grace or 0))

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  gRPC names it
        """Waits until the worker was drained; False if it was not within `timeout` seconds."""
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Starts, and returns when something else has drained the worker."""
        await self.start()
        await self._stopped.wait()

    def _check_not_started(self) -> None:
        if self._started:
            raise RegistrationError("the worker was started; register servicers before, and start it once")

    def _served(self) -> tuple[Served, Catalogue]:
        for servicer in self._settings.servicers:
            servicers.register(self, servicer)
        if self._settings.probe and _PROBE not in self._registry.services:
            add_ProbeServiceServicer_to_server(ProbeServicer(self.name, allow_faults=self._settings.allow_faults), self)
        catalogue = self._catalogue()
        served = self._registry.resolve(catalogue.methods)
        if not served.methods:
            raise RegistrationError("nothing to serve: register a servicer (--servicer module:function)")
        if served.ignored:
            _log.warning("registered methods are no job types and never run here", methods=list(served.ignored))
        return served, catalogue

    def _catalogue(self) -> Catalogue:
        # What is claimed was held to its rules by the gateway. A worker needs them for what its handlers submit, if they do.
        catalogue = load_catalogue(self._settings.images, compiled=False)
        unknown = image_of(service for service in self._registry.services if service not in catalogue.service_names)
        if unknown is not None:
            catalogue = load_catalogue([*self._settings.images, unknown], compiled=False)
        for warning in catalogue.warnings:
            _log.warning("image", warning=warning)
        return catalogue

    async def _open(self, served: Served, catalogue: Catalogue) -> None:
        router = self._given_router
        if router is None:
            router = self._router = await Router.open(
                self._settings,
                service="rowcall-worker",
                workloads=WORKER_WORKLOADS,
                dedicated=DEDICATED_CONNECTIONS,
                processes=self._settings.processes,
                beside=0 if self._command is None else connections_apart(self._settings) + DEDICATED_CONNECTIONS,
            )
        if self._spans is not None:
            # With the SDK: not where nobody has asked for it.
            from rowcall_worker.running.handler_spans import HandlerSpans

            self._handler_spans = HandlerSpans(self._spans)
            # Behind the servicers' registration, which may have chosen otherwise.
            self._handler_spans.install()
        self._executor = Executor(
            worker=self.name,
            slots=self._settings.slots,
            threads=self._settings.threads,
            max_response_bytes=self._settings.max_response_bytes,
            note=self._incidents.note,
            sampling=self._sampling,
            handler_spans=self._handler_spans,
        )
        self._incidents.start()
        self._loop_lag = LoopLag(worker=self.name)
        self._loop_lag.start()
        self._watch_prices()
        methods = list(served.methods.values())
        shares = Shares(self._settings.queues)
        solitude = Solitude((self._executor.async_slots, self._executor.sync_slots))
        shards = [
            ShardWorker(
                queue_of(shard, self._settings),
                self._executor,
                methods,
                self._settings,
                catalogue,
                name=self.name,
                program=self._program,
                shares=shares,
                solitude=solitude,
                prices=self._prices,
                loop_lag=self._loop_lag,
                spans=self._spans,
                command=self._command,
                apart=self._apart,
            )
            for shard in router.shards.values()
        ]
        self._known = shards
        self._leave_gauges = _watch_slots(self._executor)
        begin_at_zero([each.name for each in shards], served.methods)
        _log.info("worker starts", worker=self.name, methods=sorted(served.methods), shards=[s.name for s in shards])
        results = await asyncio.gather(*(shard.join() for shard in shards), return_exceptions=True)
        for shard, result in zip(shards, results, strict=True):
            if result is None:
                self._shards.append(shard)
        for shard, result in zip(shards, results, strict=True):
            if isinstance(result, RowcallError) and result.reason != ErrorReason.ERROR_REASON_SCHEMA_MISMATCH:
                _log.warning("shard not joined, trying again", shard=shard.name, error=str(result))
                self._join_later(shard)
            elif result is not None:
                raise result
        if not self._shards:
            await asyncio.wait(self._joining, return_when=asyncio.FIRST_COMPLETED)

    def _watch_prices(self) -> None:
        file = self._settings.prices
        if file is not None:
            # Before it is read: what changes meanwhile is read again.
            watched = WatchedFile(file, read_prices, self._prices.replace)
            try:
                self._prices.replace(read_prices(file))
            except PricesError as error:
                # It was right when the settings were read.
                problem = Problem("ROWCALL_PRICES (--prices)", f"names a file that cannot be used any more: {error}")
                raise SettingsError(self._settings.program, [problem]) from error
            self._price_watch = asyncio.create_task(watched.watch(), name="watch prices")

    async def _write_incidents(self, noted: Sequence[Noted]) -> Sequence[str]:
        """Writes them to whichever shard takes them first: one that is away may be what they are about."""
        failed: RowcallError | TimeoutError | None = None
        for shard in self._shards:
            try:
                return await bounded(shard.record_incidents(noted), _INCIDENT_PATIENCE)
            except (RowcallError, TimeoutError) as error:
                failed = error
        if failed is not None:
            raise failed
        return []

    def _program(self) -> Program:
        return Program(
            host=socket.gethostname(),
            release=version("rowcall-worker"),
            version=self._settings.deployed_version,
            slots=self._settings.slots,
            threads=self._settings.threads,
            apart=self._apart is not None,
            up=timedelta(seconds=time.monotonic() - self._made_at),
        )

    def _join_later(self, shard: ShardWorker) -> None:
        async def join() -> None:
            await shard.join_when_reachable()
            self._shards.append(shard)

        task = asyncio.create_task(join(), name=f"join {shard.name}")
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _drain(self, grace: float) -> None:
        for task in self._joining:
            task.cancel()
        await asyncio.gather(*self._joining, return_exceptions=True)
        _log.info("worker drains", worker=self.name, grace_s=grace)
        await asyncio.gather(*(shard.stop_claiming() for shard in self._shards))
        handed_back = await asyncio.gather(*(shard.finish(grace) for shard in self._shards))
        await self._close()
        _log.info("worker drained", worker=self.name, jobs=sum(handed_back))
        self._stopped.set()

    async def _close(self) -> None:
        # Before the shards' queues are closed.
        await self._incidents.close()
        await asyncio.gather(*(shard.leave() for shard in self._shards))
        if self._price_watch is not None:
            self._price_watch.cancel()
            await asyncio.gather(self._price_watch, return_exceptions=True)
        if self._loop_lag is not None:
            await self._loop_lag.stop()
        if self._leave_gauges is not None:
            self._leave_gauges()
            self._leave_gauges = None
        if self._executor is not None:
            self._executor.close()
        if self._handler_spans is not None:
            self._handler_spans.leave()
        if self._router is not None:
            await self._router.close()


def _watch_slots(executor: Executor) -> Callable[[], None]:
    """Has the gauges tell of an executor's slots, until what this returns is called."""
    kinds = (("async", executor.async_slots), ("sync", executor.sync_slots))

    def capacity() -> Mapping[Labels, float]:
        return {(kind,): slots.capacity for kind, slots in kinds}

    def used() -> Mapping[Labels, float]:
        return {(kind,): slots.used for kind, slots in kinds}

    def stuck() -> Mapping[Labels, float]:
        return {(kind,): slots.stuck for kind, slots in kinds}

    return watch_all(((metrics.SLOTS, capacity), (metrics.SLOTS_USED, used), (metrics.SLOTS_STUCK, stuck)))
