"""The gateway put together: what it is made of, how it starts, how it stops. Used by `main` and by standalone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, cast
from uuid import UUID, uuid4

import grpc.aio
import structlog
from google.longrunning import operations_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from rowcall import logs
from rowcall.address import Address
from rowcall.audit.signing import read_key
from rowcall.catalogue.grants import AccessTable, access_table
from rowcall.catalogue.images import Catalogue, ImageError, load_catalogue
from rowcall.errors import RowcallError
from rowcall.incidents.model import Noted
from rowcall.incidents.recorder import Incidents
from rowcall.ops.standing import DRAINING, NO_SHARD, STARTING, Standing
from rowcall.queue.choice import queue_of
from rowcall.queue.depths import KnownDepths
from rowcall.settings import Problem, SettingsError
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from rowcall.sharding.bounded import bounded
from rowcall.sharding.faults import shard_unavailable
from rowcall.v1 import (
    access_service_pb2_grpc,
    action_service_pb2_grpc,
    admission_service_pb2_grpc,
    audit_service_pb2_grpc,
    catalogue_service_pb2_grpc,
    error_service_pb2_grpc,
    job_service_pb2_grpc,
    queue_service_pb2_grpc,
    tenant_service_pb2_grpc,
    worker_service_pb2_grpc,
)
from rowcall_gateway.admission.admission import Admission
from rowcall_gateway.calls.background import Background
from rowcall_gateway.calls.drafts import Drafts
from rowcall_gateway.calls.job_calls import JobCalls
from rowcall_gateway.calls.submissions import Submissions
from rowcall_gateway.edge.access import Rights
from rowcall_gateway.edge.gate import Gate
from rowcall_gateway.edge.handlers import NOBODYS_BYTES, Collected
from rowcall_gateway.edge.head_export import HeadExport
from rowcall_gateway.edge.identity import BelievedCallers, IdentityMode
from rowcall_gateway.edge.in_time import InTime
from rowcall_gateway.edge.intake import make_server
from rowcall_gateway.edge.interceptor import CallInterceptor
from rowcall_gateway.edge.offered import Offered
from rowcall_gateway.edge.port import open_port
from rowcall_gateway.edge.refused import RefusedCalls
from rowcall_gateway.edge.rules import OUR_SERVICES, Rules, method_paths
from rowcall_gateway.edge.serving import Serving
from rowcall_gateway.edge.telemetry import Traces
from rowcall_gateway.edge.transport import server_options
from rowcall_gateway.resources import Resources
from rowcall_gateway.services.access import Access
from rowcall_gateway.services.activity import QueueWatch
from rowcall_gateway.services.audit import Audit
from rowcall_gateway.services.bounds import Bounds
from rowcall_gateway.services.catalogue import Methods
from rowcall_gateway.services.changes import Changes
from rowcall_gateway.services.erasures import Erasures
from rowcall_gateway.services.errors import Errors
from rowcall_gateway.services.exchange import Exchange
from rowcall_gateway.services.exports import Exports
from rowcall_gateway.services.heads import Heads
from rowcall_gateway.services.homes import Homes
from rowcall_gateway.services.jobs import Jobs
from rowcall_gateway.services.operations import Operations
from rowcall_gateway.services.publishing import Publishing
from rowcall_gateway.services.queues import Queues
from rowcall_gateway.services.reading import JobReader
from rowcall_gateway.services.reflection import Reflection
from rowcall_gateway.services.tenants import Tenants
from rowcall_gateway.services.traces import Actions
from rowcall_gateway.services.workers import LivingWorkers
from rowcall_gateway.settings import GatewaySettings
from rowcall_gateway.shards.links import Links
from rowcall_gateway.shards.schema import check_schemas
from rowcall_gateway.shards.waiters import Slots

if TYPE_CHECKING:
    from rowcall_gateway.edge.credentials.opening import Credentials
    from rowcall_gateway.edge.tls import KeptCertificate

DEDICATED: Final = 2
"""Connections a shard beside the pools, where hints are used: one listens, one notifies."""

INCIDENT_PATIENCE: Final = 3.0
"""Seconds that a shard has to take incidents, before the next one is asked."""

_LAST_WORDS: Final = 0.5
"""Seconds for answers that are on their way when the server stops."""

_LEAVE_AFTER: Final = 0.25
"""Seconds from the first refusal to the GOAWAY. gRPC cancels calls that arrive while their client does not know of the
GOAWAY yet; by then, the callers that were refused are waiting for it to be over."""

_WAITING_SHARE: Final = 0.8
"""Of the grace, over which waiting calls are ended; the rest is for them to leave."""

_log = structlog.get_logger(__name__)


class Gateway:
    """A gateway in this process and event loop."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        router: Router | None = None,
        traces: Traces | None = None,
        head_export: HeadExport | None = None,
        shares_port: bool = False,
    ) -> None:
        """
        Args:
            settings: What it is told.
            router: One that others share, open with the gateway's workloads, theirs to close; None: its own.
            traces: Begins the spans of its calls; None: there are none.
            head_export: Sends heads of the audit over OTLP; None: nobody does.
            shares_port: Whether other gateways listen on the same port, as processes of one command do: the kernel then
                gives each a part of the connections.
        """
        self._settings = settings
        self._router = router
        self._owns_router = router is None
        self._traces = traces
        self._shares_port = shares_port
        self._gate = Gate()
        self._background = Background()
        self._health = health.aio.HealthServicer()
        self._links: Links | None = None
        self._admission: Admission | None = None
        self._publishing: Publishing | None = None
        self._incidents = Incidents("gateway", self._write_incidents, version=version("rowcall-gateway"))
        self._refused = RefusedCalls()
        self._in_time = InTime()
        self._head_export = head_export
        self._heads: Heads | None = None
        self._credentials: Credentials | None = None
        self._server: Serving | None = None
        self._health_server: Serving | None = None
        self._certificate: KeptCertificate | None = None
        self._port = 0
        self._health_port = 0
        self._leaving = False

    @property
    def port(self) -> int:
        """The port it listens on, once it is started."""
        return self._port

    @property
    def address(self) -> str:
        """HOST:PORT, once it is started."""
        return str(Address(self._settings.address.host, self._port))

    @property
    def health_port(self) -> int:
        """The port on which it tells of its health alone, once it is started; 0: it has none."""
        return self._health_port

    @property
    def service(self) -> str:
        """See rowcall.ops.standing.Service."""
        return "gateway"

    @property
    def depths(self) -> Sequence[KnownDepths]:
        """See rowcall.ops.standing.Service."""
        return [link.depths for link in self._links or ()]

    def standing(self) -> Standing:
        """Whether it takes calls, by what it needs. See rowcall.ops.standing.Service."""
        shards = {f"shard {known.shard}": known.trouble for known in self.depths}
        catalogue = "" if self._admission is None or not self._admission.known.away else "does not answer"
        checks = {**shards, "catalogue": catalogue}
        if self._leaving:
            return Standing(DRAINING, checks)
        if self._server is None:
            return Standing(STARTING, checks)
        return Standing(NO_SHARD if all(shards.values()) else "", checks)

    async def start(self) -> None:
        """Loads the images, looks at the databases, and serves.

        Databases that cannot be reached do not stop it: their tenants' calls fail, typed, until they are back.

        Raises:
            ImageError: An image cannot be served.
            SettingsError: The pools are more than a server allows, or the port's certificate is not what it must be.
            RowcallError: SCHEMA_MISMATCH: a database needs `rowcall migrate`.
            OSError: The address cannot be listened on.
        """
        catalogue, table = self._load()
        offered = Offered(catalogue, table)
        self._certificate = _certificate(self._settings)
        try:
            await self._connect(offered)
        except BaseException:
            await self.stop()
            raise

    async def drain(self, grace: timedelta | None = None) -> None:
        """Stops in order: says so, takes no new calls, ends those that wait, finishes the others, and stops.

        Args:
            grace: How long it may take; None: as the settings say.
        """
        grace = self._settings.grace if grace is None else grace
        self._leaving = True
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
        self._leaving = True
        await self._health.enter_graceful_shutdown()
        self._gate.close()
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(_LAST_WORDS)
        if self._health_server is not None:
            health_server, self._health_server = self._health_server, None
            await health_server.stop(None)
        if self._certificate is not None:
            await self._certificate.close()
            self._certificate = None
        await self._background.close()
        await self._incidents.close()
        await self._refused.close()
        await self._in_time.close()
        if self._heads is not None:
            await self._heads.close()
            self._heads = None
        if self._credentials is not None:
            await self._credentials.close()
            self._credentials = None
        if self._admission is not None:
            await self._admission.close()
            self._admission = None
        if self._publishing is not None:
            publishing, self._publishing = self._publishing, None
            await publishing.close()
        if self._links is not None:
            await self._links.close()
            self._links = None
        if self._owns_router and self._router is not None:
            await self._router.close()
            self._router = None
        logs.flush()

    def _load(self) -> tuple[Catalogue, AccessTable]:
        catalogue = load_catalogue(
            self._settings.images,
            builtin=self._settings.probe,
            reflected=(health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR),
        )
        for warning in catalogue.warnings:
            _log.warning("image", warning=warning)
        table = self._table_of(catalogue)
        if table.lacking:
            _log.warning(
                "methods without an access rule: nobody could call them if callers were known by credentials",
                methods=table.ruleless,
            )
        return catalogue, table

    def _table_of(self, catalogue: Catalogue) -> AccessTable:
        """Who may call what of a catalogue. Raises ImageError: an image grants what it may not, or leaves open who may call."""
        table = access_table(catalogue, self._settings)
        believes = self._settings.identity.believes
        problems = [*table.violations, *(() if believes else table.lacking)]
        if problems:
            raise ImageError(problems)
        return table

    async def _connect(self, offered: Offered) -> None:
        settings, catalogue = self._settings, offered.catalogue
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
        gateway_id = uuid4()
        self._links = Links(
            queues,
            settings,
            gateway_id=gateway_id,
            in_flight=lambda: self._gate.inside,
            methods=list(catalogue.methods.values()),
            shapes=catalogue.shapes(),
        )
        self._admission = _admission(self._router, self._links, gateway_id)
        self._credentials = await self._open_credentials(self._router)
        server = await self._assemble(
            offered, gateway_id, self._router, self._links, admission=self._admission, credentials=self._credentials
        )
        if self._publishing is not None:
            await self._publishing.start()
        self._port = open_port(server, settings.address, self._certificate)
        if settings.health_listen is not None:
            self._health_server = await self._serve_health(Address.parse(settings.health_listen))
        if self._certificate is not None:
            self._certificate.start()
        self._links.start()
        await self._admission.start()
        self._incidents.start()
        self._refused.start()
        self._in_time.start()
        self._heads = Heads(self._router.audit, {link.name: link.admin for link in self._links}, self._head_export)
        self._heads.start()
        self._server = await Serving.start(server)
        for service in ("", *self._services(offered.catalogue)):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        if settings.identity is IdentityMode.INSECURE_NETWORK:
            _log.warning(
                "EVERY CALLER IS BELIEVED: whoever reaches this port may call as any tenant", address=self.address
            )
        _log.info(
            "serving", address=self.address, methods=len(offered.catalogue.methods), shards=sorted(settings.shards)
        )

    async def _write_incidents(self, noted: Sequence[Noted]) -> Sequence[str]:
        """Writes them to whichever shard takes them first: they are of none, and one that is away may be what they are about."""
        failed: RowcallError | None = None
        for link in self._links or ():
            try:
                return await bounded(link.admin.record_incidents(noted), INCIDENT_PATIENCE)
            except (RowcallError, TimeoutError) as error:
                failed = error if isinstance(error, RowcallError) else shard_unavailable(link.name, "did not answer")
        if failed is not None:
            raise failed
        return []

    async def _serve_health(self, address: Address) -> Serving:
        """Health on a port of its own, which asks nobody for anything and serves nothing else."""
        server = make_server(
            server_options(
                shares_port=self._shares_port,
                max_message_bytes=NOBODYS_BYTES,
                longest_call=timedelta(0),
                max_waiters=0,
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self._health_port = open_port(server, address, None)
        return await Serving.start(server)

    async def _open_credentials(self, router: Router) -> Credentials | None:
        """What callers are known by; None where they are believed."""
        settings = self._settings
        if settings.identity.believes:
            return None
        # With what checks signatures, a good part of a gateway's start.
        from rowcall_gateway.edge.credentials.opening import Credentials

        try:
            credentials = Credentials(
                settings.identity,
                issuers=settings.issuers,
                certificates=settings.certificates,
                read_revocations=router.revocations.since,
            )
        except ValueError as error:
            # Good when the settings were read, just now.
            raise OSError(f"the identity's files have changed and are wrong: {error}") from error
        await credentials.start()
        return credentials

    async def _assemble(
        self,
        offered: Offered,
        gateway_id: UUID,
        router: Router,
        links: Links,
        *,
        admission: Admission,
        credentials: Credentials | None,
    ) -> grpc.aio.Server:
        settings, validator = self._settings, offered.catalogue.validator
        rights = Rights(offered.table, public_tenant=settings.public_tenant)
        resources = Resources(offered, rights)
        drafts = Drafts(offered, rights, max_request_bytes=settings.max_request_bytes)
        submissions = Submissions(router, links)
        reader = JobReader(router, links)
        slots = Slots(settings.max_waiters)
        calls = JobCalls(
            admission=admission,
            drafts=drafts,
            submissions=submissions,
            resources=resources,
            slots=slots,
            background=self._background,
            max_call_wait=settings.max_call_wait,
        )
        exchange = Exchange(
            offered,
            rights=rights,
            rules=partial(
                Rules, max_request_bytes=settings.max_request_bytes, max_batch_bytes=settings.max_batch_bytes
            ),
            table_of=self._table_of,
            calls=calls,
            links=links,
            health=self._tell_health,
        )
        self._publishing = Publishing(
            router.images,
            gateway_id=gateway_id,
            name=f"{socket.gethostname()}-{os.getpid()}-{gateway_id.hex[:6]}",
            version=version("rowcall-gateway"),
            deployed=settings.deployed_version,
            check=exchange.check,
            serve=exchange.serve,
        )
        interceptor = CallInterceptor(
            scope=BelievedCallers() if credentials is None else credentials.scope,
            rights=rights,
            gate=self._gate,
            rules=exchange.rules_of,
            traces=self._traces,
            note=self._incidents.note,
            refused=self._refused,
            in_time=self._in_time,
        )
        served = Collected()
        # The stubs know gRPC's own servers only.
        adding = cast("grpc.aio.Server", served)
        jobs = Jobs(
            admission=admission,
            calls=calls,
            drafts=drafts,
            submissions=submissions,
            reader=reader,
            resources=resources,
            slots=slots,
            validator=validator,
        )
        job_service_pb2_grpc.add_JobServiceServicer_to_server(jobs, adding)
        operations = Operations(reader, resources, slots, max_call_wait=settings.max_call_wait)
        operations_pb2_grpc.add_OperationsServicer_to_server(operations, adding)
        changes = Changes(offered, router, links)
        queues = Queues(validator, links, changes, QueueWatch(links))
        queue_service_pb2_grpc.add_QueueServiceServicer_to_server(queues, adding)
        methods = Methods(
            validator, changes, offered=offered, images=router.images, publishing=self._publishing, links=links
        )
        catalogue_service_pb2_grpc.add_CatalogueServiceServicer_to_server(methods, adding)
        tenants = Tenants(
            validator,
            changes,
            router=router,
            links=links,
            homes=Homes(router, links),
            exports=Exports(resources),
            erasures=Erasures(),
        )
        tenant_service_pb2_grpc.add_TenantServiceServicer_to_server(tenants, adding)
        workers = LivingWorkers(validator, links, rights)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(workers, adding)
        access = Access(validator, router.revocations, credentials)
        access_service_pb2_grpc.add_AccessServiceServicer_to_server(access, adding)
        bounds = Bounds(validator, router.bounds, admission.known)
        admission_service_pb2_grpc.add_AdmissionServiceServicer_to_server(bounds, adding)
        key = None if settings.audit_key_file is None else read_key(settings.audit_key_file)
        audit = Audit(validator, reader, links, router.audit, key=key)
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(audit, adding)
        actions = Actions(validator, reader, links, rights)
        action_service_pb2_grpc.add_ActionServiceServicer_to_server(actions, adding)
        errors = Errors(validator, links)
        error_service_pb2_grpc.add_ErrorServiceServicer_to_server(errors, adding)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, adding)
        if settings.reflection:
            servicer = Reflection(
                lambda: exchange.described,
                lambda: (*self._services(offered.catalogue), health.SERVICE_NAME, reflection.SERVICE_NAME),
            )
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, adding)  # type: ignore[no-untyped-call]
        server = make_server(
            server_options(
                shares_port=self._shares_port,
                max_message_bytes=settings.max_message_bytes,
                longest_call=settings.max_call_wait,
                max_waiters=settings.max_waiters,
            )
        )
        ours = (*OUR_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        handlers = served.of(method_paths(offered.catalogue, ours))
        server.add_generic_rpc_handlers((exchange.handlers(interceptor, handlers),))
        return server

    async def _tell_health(self, services: Sequence[str], gone: Sequence[str]) -> None:
        if self._server is None:
            # All of them are told when it serves.
            return
        for service in services:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        for service in gone:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    def _services(self, catalogue: Catalogue) -> Sequence[str]:
        return (*catalogue.service_names, *OUR_SERVICES)


def _admission(router: Router, links: Links, gateway_id: UUID) -> Admission:
    def shard_of(tenant: str) -> str | None:
        route = router.route_cached(tenant)
        return None if route is None else route.shard

    return Admission(router.bounds.since, {link.name: link.admission for link in links}, shard_of, gateway_id)


def _certificate(settings: GatewaySettings) -> KeptCertificate | None:
    """The certificate of the port; None: it has none. Raises SettingsError."""
    files = settings.certificate_files
    if files is None:
        return None
    # What it needs takes a part of the start that gateways without TLS do without.
    from rowcall_gateway.edge.tls import BadCertificate, KeptCertificate

    try:
        return KeptCertificate(files)
    except BadCertificate as error:
        name = f"tls_{error.part}"
        raise SettingsError(
            settings.program, [Problem(f"ROWCALL_{name.upper()} (--{name.replace('_', '-')})", f"{error}.")]
        ) from error
