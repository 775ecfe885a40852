"""Markers in payloads, tokens, keys and passwords, through good ways and bad ones: none comes out where it has no business.

What comes out is all that anybody can see beside the answer itself: log lines of every level, spans, error statuses with
their trailers, what the command prints, the views for people, what Postgres logs and shows of its sessions.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.longrunning import operations_pb2_grpc
from google.longrunning.operations_pb2 import GetOperationRequest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from psycopg import sql
from psycopg.conninfo import make_conninfo

from rowcall.embedded import Postgres
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, RunRequest
from rowcall.v1 import job_service_pb2_grpc
from rowcall.v1.job_service_pb2 import ListJobsRequest
from tests.fix_cluster import Cluster
from tests.fix_commands import ROWCALL, Ran, environment
from tests.fix_services import END_SECONDS, Services
from tests.support.pki import Authority, Files, Issued
from tests.support.tokens import TokenIssuer, bearer
from tests.support.waiting import until

SERVICER = """
import json

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoResponse
from rowcall_worker import finished


class Clumsy(probe_pb2_grpc.ProbeServiceServicer):
    async def Echo(self, request, context):
        if request.payload.startswith(b"raise"):
            raise LookupError(f"no account for {request.payload!r}")
        return EchoResponse(payload=request.payload)

    async def Run(self, request, context):
        try:
            json.loads(request.payload)
        except ValueError as error:
            raise RuntimeError(f"cannot parse {request.payload.decode()}") from error

    def Await(self, request, context):
        return finished(request)  # of another type than it says


def register(worker):
    probe_pb2_grpc.add_ProbeServiceServicer_to_server(Clumsy(), worker)
"""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector of spans, which keeps them as they came."""

    def __init__(self) -> None:
        self.spans: list[str] = []

    def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: N802  the proto names it
        self.spans.append(str(request))
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector, and where it is."""
    made = Collector()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield made, f"http://127.0.0.1:{port}"
        finally:
            server.stop(None).wait(END_SECONDS)


class Markers:
    """What must not come out, each under what it is."""

    def __init__(self, issuer: TokenIssuer, certificate: Issued) -> None:
        self.payload = f"payload-{secrets.token_hex(8)}"
        self.password = f"password-{secrets.token_hex(8)}"
        self.garbage = f"garbage-{secrets.token_hex(8)}"
        """What somebody sends for a token."""
        self.token = issuer.token(roles=["caller", "operator"])
        self.signature = self.token.rpartition(".")[2]
        self.key = certificate.key_pem.decode().splitlines()[1]
        """Of the port's private key, in PEM."""

    def found_in(self, text: str) -> list[str]:
        """Which of them are in a text: as they are, or as bytes are shown."""
        return [name for name, value in vars(self).items() if value in text or value.encode().hex() in text]


@dataclass(frozen=True, slots=True)
class Marked:
    """A system's settings with markers in them, and who calls it."""

    markers: Markers
    issuer: TokenIssuer
    authority: Authority
    variables: Mapping[str, str]
    """For `rowcall serve`."""

    @property
    def bearer(self) -> tuple[tuple[str, str], ...]:
        """The metadata of its callers."""
        return bearer(self.markers.token)

    def channel(self, address: str) -> grpc.aio.Channel:
        """A channel over TLS."""
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(self.authority.pem))


@pytest.fixture
def servicer(tmp_path: Path) -> str:
    """Where Python finds the module that has the servicer: a path of folders."""
    (tmp_path / "clumsy.py").write_text(SERVICER)
    return os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))


@pytest.fixture
def marked(cluster: Cluster, servicer: str, tmp_path: Path) -> Iterator[Marked]:
    """Settings by a login whose password is a marker, for a port whose key is one."""
    issuer, authority = TokenIssuer(), Authority()
    certificate = authority.issue("127.0.0.1")
    markers = Markers(issuer, certificate)
    (tmp_path / "tls").mkdir()
    files = Files(tmp_path / "tls")
    files.put(certificate, authority.pem)
    login = f"marked_{secrets.token_hex(4)}"
    with psycopg.connect(cluster.catalogue_dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("create role {} login password {} in role rowcall_gateway, rowcall_worker").format(
                sql.Identifier(login), sql.Literal(markers.password)
            )
        )

        # What a session has asked last is shown of it; this one's password is in what made the login.
        admin.execute("select 1")

        def by_login(dsn: str) -> str:
            return make_conninfo(dsn, user=login, password=markers.password)

        yield Marked(
            markers,
            issuer,
            authority,
            {
                "ROWCALL_CATALOGUE": by_login(cluster.catalogue_dsn),
                "ROWCALL_SHARDS": json.dumps({name: by_login(dsn) for name, dsn in cluster.shards.items()}),
                "PYTHONPATH": servicer,
                "ROWCALL_IDENTITY": "jwt",
                "ROWCALL_ISSUERS": str(issuer.write(tmp_path)),
                "ROWCALL_TLS_CERT": str(files.cert),
                "ROWCALL_TLS_KEY": str(files.key),
            },
        )
        admin.execute(sql.SQL("drop role {}").format(sql.Identifier(login)))


async def calls(address: str, marked: Marked) -> tuple[list[str], list[str]]:
    """Good calls and bad ones with markers in them; what the errors say, whole, and the names of the jobs."""
    payload = marked.markers.payload.encode()
    errors: list[str] = []
    names: list[str] = []
    who = marked.bearer
    async with marked.channel(address) as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)

        async def bad(call: Any) -> grpc.aio.AioRpcError:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            error = caught.value
            errors.append(f"{error.code()} {error.details()} {error.trailing_metadata()} {error.debug_error_string()}")
            names.extend(str(value) for key, value in error.trailing_metadata() or () if key == "rowcall-operation")
            return error

        answer = await probe.Echo(EchoRequest(payload=payload), timeout=30, metadata=who)
        assert answer.payload == payload, "it goes through"
        await bad(probe.Echo(EchoRequest(payload=b"raise " + payload), timeout=30, metadata=who))
        await bad(probe.Await(AwaitRequest(payload=payload), timeout=30, metadata=who))
        operation = await probe.Run(RunRequest(payload=payload), timeout=30, metadata=(*who, ("prefer", "wait=20")))
        assert operation.done
        names.append(operation.name)
        errors.append(str(operation.error))
        # Refused, each in another room.
        await bad(probe.Run(RunRequest(payload=payload, fail_attempts=-1), timeout=30, metadata=who))
        await bad(probe.Run(RunRequest(payload=payload * 100_000), timeout=30, metadata=who))
        keyed = (*who, ("idempotency-key", "k"))
        await probe.Echo(EchoRequest(payload=payload), timeout=30, metadata=keyed)
        await bad(probe.Echo(EchoRequest(payload=payload + b"other"), timeout=30, metadata=keyed))
        raw: Any = channel.unary_unary("/rowcall.probe.v1.ProbeService/Echo")
        await bad(raw(b"\xff" + payload, timeout=30, metadata=who))
        unknown: Any = channel.unary_unary("/rowcall.probe.v1.ProbeService/Nothing")
        await bad(unknown(payload, timeout=30, metadata=who))
        await bad(probe.Echo(EchoRequest(payload=payload), timeout=30, metadata=(*who, ("rowcall-priority", "none"))))
        operations = operations_pb2_grpc.OperationsStub(channel)
        await bad(operations.GetOperation(GetOperationRequest(name="no such"), timeout=30, metadata=who))
        # Tokens that are none, one that has ended, and one that somebody else has signed.
        for wrong in (
            bearer(marked.markers.garbage),
            bearer(f"{marked.markers.garbage}.{marked.markers.garbage}.{marked.markers.garbage}"),
            bearer(f"{marked.markers.token}x"),
            marked.issuer.metadata(exp=1),
            (*who, *bearer(marked.markers.garbage)),
        ):
            refused = await bad(probe.Echo(EchoRequest(payload=payload), timeout=30, metadata=wrong))
            assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
        # What shows jobs shows no payload unless it is asked for.
        listed = await job_service_pb2_grpc.JobServiceStub(channel).ListJobs(
            ListJobsRequest(), timeout=30, metadata=who
        )
        assert len(listed.jobs) >= 4
        errors.append(str(listed))
    return errors, [name for name in names if name]


@pytest.mark.straight("A pooler knows no login that a test makes.")
async def test_no_marker_comes_out(
    services: Services,
    cluster: Cluster,
    marked: Marked,
    collector: tuple[Collector, str],
    postgres: Postgres,
) -> None:
    markers = marked.markers
    system: dict[str, str] = {
        "ROWCALL_LISTEN": "127.0.0.1:0",
        "ROWCALL_LOG_LEVEL": "debug",
        "ROWCALL_SERVICERS": '["clumsy:register"]',
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector[1],
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        **marked.variables,
    }
    process = services.start("rowcall", "serve", **system)
    address = await asyncio.to_thread(process.address)
    came_out: dict[str, str] = {}

    errors, names = await calls(address, marked)
    came_out["errors"] = "\n".join(errors)
    ca = Path(marked.variables["ROWCALL_TLS_CERT"]).with_name("ca.crt")
    for number, name in enumerate(names):
        arguments = ("jobs", "show", name, "--address", address, "--tenant", "acme", "--tls-ca", str(ca))
        ran = await asyncio.to_thread(run_rowcall, *arguments, ROWCALL_TOKEN=markers.token)
        assert ran.code == 0, ran.err
        came_out[f"rowcall jobs show {number}"] = ran.out + ran.err
    for shard, dsn in cluster.shards.items():
        with psycopg.connect(dsn) as connection:
            came_out[f"the view of {shard}"] = str(connection.execute("table rowcall.jobs").fetchall())
            came_out[f"sessions of {shard}"] = str(connection.execute("select query from pg_stat_activity").fetchall())
    await until(lambda: len("".join(collector[0].spans)) > 0, seconds=30)
    assert await asyncio.to_thread(process.end) == 0, "".join(process.log)
    came_out["log"] = "".join(process.log)
    came_out["spans"] = "".join(collector[0].spans)
    came_out["Postgres's log"] = postgres.log.read_text(errors="replace")

    # A password that is wrong, a server that is not there, a key that does not fit.
    catalogue = system["ROWCALL_CATALOGUE"]
    wrong = {**system, "ROWCALL_CATALOGUE": make_conninfo(catalogue, password=f"{markers.password}-no")}
    mixed = {**system, "ROWCALL_TLS_CERT": str(ca)}
    for what, variables in {"a wrong password": wrong, "a key of another": mixed}.items():
        refused = services.start("rowcall", "serve", **variables)
        assert await asyncio.to_thread(refused.process.wait, END_SECONDS) == 2
        assert refused.all_gone()
        came_out[what] = "".join(refused.log)
    gone = {"ROWCALL_CATALOGUE": make_conninfo(catalogue, port=1), "ROWCALL_SHARDS": system["ROWCALL_SHARDS"]}
    ran = await asyncio.to_thread(run_rowcall, "migrate", **gone)
    assert ran.code != 0
    came_out["rowcall migrate"] = ran.out + ran.err

    assert all(came_out.values()), "each of these says something"
    assert {where: found for where, text in came_out.items() if (found := markers.found_in(text))} == {}


def run_rowcall(*arguments: str, **variables: str) -> Ran:
    """Runs the command to its end, as a process of its own."""
    ended = subprocess.run(
        [ROWCALL, *arguments],
        capture_output=True,
        check=False,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=100,
    )
    return Ran(ended.returncode, ended.stdout, ended.stderr)
