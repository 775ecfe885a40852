"""The gateway put together: what it is made of, how it starts, how it stops. Used by `main` and by standalone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, cast
from uuid import uuid4

import grpc.aio
import structlog
from google.longrunning import operations_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from opentelemetry.trace import TracerProvider

from rowcall import logs
from rowcall.catalogue.images import Catalogue, load_catalogue
from rowcall.queue.choice import queue_of
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from rowcall.v1 import (
    catalogue_service_pb2_grpc,
    job_service_pb2_grpc,
    queue_service_pb2_grpc,
    tenant_service_pb2_grpc,
)
from rowcall_gateway.calls.background import Background
from rowcall_gateway.calls.drafts import Drafts
from rowcall_gateway.calls.generic import job_method_handlers
from rowcall_gateway.calls.job_calls import JobCalls
from rowcall_gateway.calls.submissions import Submissions
from rowcall_gateway.edge import paths
from rowcall_gateway.edge.address import Address, cannot_listen
from rowcall_gateway.edge.gate import Gate
from rowcall_gateway.edge.handlers import Collected
from rowcall_gateway.edge.identity import BelievedCallers, IdentityMode
from rowcall_gateway.edge.interceptor import CallInterceptor
from rowcall_gateway.edge.rules import OUR_SERVICES, Rules, method_paths
from rowcall_gateway.edge.telemetry import span_interceptor
from rowcall_gateway.resources import Resources
from rowcall_gateway.services.catalogue import Methods
from rowcall_gateway.services.changes import Changes
from rowcall_gateway.services.jobs import Jobs
from rowcall_gateway.services.operations import Operations
from rowcall_gateway.services.queues import Queues
from rowcall_gateway.services.reading import JobReader
from rowcall_gateway.services.tenants import Tenants
from rowcall_gateway.settings import GatewaySettings
from rowcall_gateway.shards.links import Links
from rowcall_gateway.shards.schema import check_schemas
from rowcall_gateway.shards.waiters import Slots

DEDICATED: Final = 2
"""Connections a shard beside the pools, where hints are used: one listens, one notifies."""

_LAST_WORDS: Final = 0.5
"""Seconds for answers that are on their way when the server stops."""

_LEAVE_AFTER: Final = 0.25
"""Seconds from the first refusal to the GOAWAY. gRPC cancels calls that arrive while their client does not know of the
GOAWAY yet; by then, the callers that were refused are waiting for it to be over."""

_WAITING_SHARE: Final = 0.8
"""Of the grace, over which waiting calls are ended; the rest is for them to leave."""

_PING_EVERY: Final = 5_000
"""Milliseconds between a client's keepalive pings at least, whether it has calls or not. gRPC's own servers allow one in five
minutes while nothing is sent, and end the connection, with every call on it, of a client that keeps it alive as is usual in Go
and Java: a ping every ten seconds. A call that waits sends nothing."""

_PINGS_TOO_SOON: Final = 2
"""So many sooner than that are borne; then the connection ends (ENHANCE_YOUR_CALM, "too_many_pings")."""

_log = structlog.get_logger(__name__)


class Gateway:
    """A gateway in this process and event loop."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        router: Router | None = None,
        tracer_provider: TracerProvider | None = None,
        shares_port: bool = False,
    ) -> None:
        """
        Args:
            settings: What it is told.
            router: One that others share, open with the gateway's workloads, theirs to close; None: its own.
            tracer_provider: Makes the spans of its RPCs; None: there are none.
            shares_port: Whether other gateways listen on the same port, as processes of one command do: the kernel then
                gives each a part of the connections.
        """
        self._settings = settings
        self._router = router
        self._owns_router = router is None
        self._tracer_provider = tracer_provider
        self._shares_port = shares_port
        self._gate = Gate()
        self._background = Background()
        self._health = health.aio.HealthServicer()
        self._links: Links | None = None
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port it listens on, once it is started."""
        return self._port

    @property
    def address(self) -> str:
        """HOST:PORT, once it is started."""
        return str(Address(self._settings.address.host, self._port))

    async def start(self) -> None:
        """Loads the images, looks at the databases, and serves.

        Databases that cannot be reached do not stop it: their tenants' calls fail, typed, until they are back.

        Raises:
            ImageError: An image cannot be served.
            SettingsError: The pools are more than a server allows.
            RowcallError: SCHEMA_MISMATCH: a database needs `rowcall migrate`.
            OSError: The address cannot be listened on.
        """
        catalogue = self._load()
        try:
            await self._connect(catalogue)
        except BaseException:
            await self.stop()
            raise

    async def drain(self, grace: timedelta | None = None) -> None:
        """Stops in order: says so, takes no new calls, ends those that wait, finishes the others, and stops.

        Args:
            grace: How long it may take; None: as the settings say.
        """
        grace = self._settings.grace if grace is None else grace
        _log.info("draining", in_flight=self._gate.inside, grace_s=grace.total_seconds())
        await self._health.enter_graceful_shutdown()
        if self._settings.drain_notice:
            await asyncio.sleep(self._settings.drain_notice.total_seconds())
        loop = asyncio.get_running_loop()
        leaving_in = min(_LEAVE_AFTER, grace.total_seconds() / 4)
        self._gate.close(leaving_at=loop.time() + leaving_in)
        if self._links is not None:
            self._links.drain(grace * _WAITING_SHARE, loop.time() + leaving_in)
        leaving = asyncio.ensure_future(self._leave(leaving_in, grace.total_seconds()))
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await asyncio.sleep(leaving_in)
                await self._gate.empty()
        except TimeoutError:
            _log.warning("calls are cut off", in_flight=self._gate.inside)
        await self.stop()
        await leaving

    async def _leave(self, after: float, grace: float) -> None:
        """Sends clients away from their connections (GOAWAY), so that what they call next goes to another gateway."""
        await asyncio.sleep(after)
        if self._server is not None:
            await self._server.stop(max(grace - after, 0))

    async def stop(self) -> None:
        """Stops now. Calls that wait are cut off; their jobs go on, and what is being written is written."""
        await self._health.enter_graceful_shutdown()
        self._gate.close()
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(_LAST_WORDS)
        await self._background.close()
        if self._links is not None:
            await self._links.close()
            self._links = None
        if self._owns_router and self._router is not None:
            await self._router.close()
            self._router = None
        logs.flush()

    def _load(self) -> Catalogue:
        catalogue = load_catalogue(
            self._settings.images,
            builtin=self._settings.probe,
            reflected=(health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR),
        )
        for warning in catalogue.warnings:
            _log.warning("image", warning=warning)
        return catalogue

    async def _connect(self, catalogue: Catalogue) -> None:
        settings = self._settings
        if self._router is None:
            self._router = await Router.open(
                settings,
                service=settings.program,
                workloads=GATEWAY_WORKLOADS,
                dedicated=DEDICATED if settings.uses_hints else 0,
                processes=settings.processes,
            )
        queues = {name: queue_of(shard, settings) for name, shard in self._router.shards.items()}
        await check_schemas(settings, queues.values())
        self._links = Links(
            queues,
            settings,
            gateway_id=uuid4(),
            in_flight=lambda: self._gate.inside,
            methods=list(catalogue.methods.values()),
            shapes=catalogue.shapes(),
        )
        self._server = await self._assemble(catalogue, self._router, self._links)
        self._port = _bind(self._server, settings.address)
        self._links.start()
        await paths.start(self._server)
        for service in ("", *self._services(catalogue)):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        if settings.identity is IdentityMode.INSECURE_NETWORK:
            _log.warning(
                "EVERY CALLER IS BELIEVED: whoever reaches this port may call as any tenant", address=self.address
            )
        _log.info("serving", address=self.address, methods=len(catalogue.methods), shards=sorted(settings.shards))

    async def _assemble(self, catalogue: Catalogue, router: Router, links: Links) -> grpc.aio.Server:
        settings = self._settings
        resources = Resources(catalogue)
        drafts = Drafts(catalogue, max_request_bytes=settings.max_request_bytes)
        submissions = Submissions(router, links)
        reader = JobReader(router, links)
        slots = Slots(settings.max_waiters)
        calls = JobCalls(
            drafts=drafts,
            submissions=submissions,
            resources=resources,
            slots=slots,
            background=self._background,
            max_call_wait=settings.max_call_wait,
        )
        interceptor = CallInterceptor(
            scope=BelievedCallers(),
            gate=self._gate,
            rules=Rules(
                catalogue, max_request_bytes=settings.max_request_bytes, max_batch_bytes=settings.max_batch_bytes
            ).of,
            spans=None if self._tracer_provider is None else span_interceptor(self._tracer_provider),
        )
        served = Collected()
        # The stubs know gRPC's own servers only.
        adding = cast("grpc.aio.Server", served)
        jobs = Jobs(
            calls=calls,
            drafts=drafts,
            submissions=submissions,
            reader=reader,
            resources=resources,
            slots=slots,
            validator=catalogue.validator,
        )
        job_service_pb2_grpc.add_JobServiceServicer_to_server(jobs, adding)
        operations = Operations(reader, resources, slots, max_call_wait=settings.max_call_wait)
        operations_pb2_grpc.add_OperationsServicer_to_server(operations, adding)
        changes = Changes(catalogue, router, links)
        queues = Queues(catalogue.validator, links, changes)
        queue_service_pb2_grpc.add_QueueServiceServicer_to_server(queues, adding)
        methods = Methods(catalogue.validator, changes)
        catalogue_service_pb2_grpc.add_CatalogueServiceServicer_to_server(methods, adding)
        tenants = Tenants(catalogue.validator, changes)
        tenant_service_pb2_grpc.add_TenantServiceServicer_to_server(tenants, adding)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, adding)
        if settings.reflection:
            names = (*self._services(catalogue), health.SERVICE_NAME, reflection.SERVICE_NAME)
            servicer = reflection.aio.ReflectionServicer(names, pool=catalogue.pool)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, adding)  # type: ignore[no-untyped-call]
        server = grpc.aio.server(
            options=(
                # On by default, it lets a second process on the port take calls away in silence.
                ("grpc.so_reuseport", int(self._shares_port)),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_EVERY),
                ("grpc.http2.max_ping_strikes", _PINGS_TOO_SOON),
            ),
        )
        # Where an image has a service of ours, ours is served.
        ours = (*OUR_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        handlers = {**job_method_handlers(catalogue, calls), **served.of(method_paths(catalogue, ours))}
        server.add_generic_rpc_handlers((await interceptor.guard(handlers),))
        return server

    def _services(self, catalogue: Catalogue) -> Sequence[str]:
        return (*catalogue.service_names, *OUR_SERVICES)


def _bind(server: grpc.aio.Server, address: Address) -> int:
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise cannot_listen(address) from error
    return port
