"""Who calls, as clients see it: by tokens, against a served gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning.operations_pb2 import GetOperationRequest, ListOperationsRequest
from google.longrunning.operations_pb2_grpc import OperationsStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.access_service_pb2 import ListRevocationsRequest, RevokeCredentialsRequest
from rowcall.v1.access_service_pb2_grpc import AccessServiceStub
from rowcall.v1.job_service_pb2 import GetJobRequest
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall_gateway.server import Gateway
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, info_of, jobs, refused, tenant, trailer
from tests.support.tokens import TokenIssuer, bearer, hmac_with_public_key, rsa_key, unsigned, write_issuers
from tests.support.waiting import until

NOW = ("prefer", "wait=0")


class Issued:
    """A gateway that takes the tokens of one issuer, and what calls it."""

    def __init__(self, issuer: TokenIssuer, directory: Path, gateway: Gateway, channel: grpc.aio.Channel) -> None:
        self.issuer = issuer
        self.directory = directory
        self.gateway = gateway
        self.channel = channel
        self.probe: probe_pb2_grpc.ProbeServiceAsyncStub = ProbeServiceStub(channel)
        self.operations = OperationsStub(channel)
        self.access = AccessServiceStub(channel)
        self.admin = issuer.metadata(tenant=None, roles=["admin", "caller"], sub="root")

    async def submit(self, metadata: Metadata) -> str:
        """The name of a job that was submitted."""
        operation = await self.probe.Run(RunRequest(), timeout=20, metadata=(*metadata, NOW))
        return str(operation.name)

    async def revoke(self, **request: Any) -> None:
        await self.access.RevokeCredentials(
            RevokeCredentialsRequest(issuer=self.issuer.name, **request), timeout=20, metadata=self.admin
        )


@pytest.fixture
async def issued(gateways: Gateways, tmp_path: Path) -> Issued:
    issuer = TokenIssuer()
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    return Issued(issuer, tmp_path, gateway, await gateways.channel(gateway))


async def test_a_token_says_whose_the_job_is_and_who_submitted_it(issued: Issued, cluster: Cluster) -> None:
    name = await issued.submit(issued.issuer.metadata())
    assert name.startswith("tenants/acme/operations/")
    assert jobs(cluster, "tenant, actor") == [("acme", "ada")]
    job = await JobServiceStub(issued.channel).GetJob(
        GetJobRequest(name=name), timeout=20, metadata=issued.issuer.metadata()
    )
    assert job.job.actor == "ada"


REFUSED: dict[str, tuple[Callable[[TokenIssuer], Metadata], str]] = {
    "no token": (lambda _: (), "CREDENTIALS_REQUIRED"),
    "a name instead of a token": (lambda _: tenant("acme"), "CREDENTIALS_REQUIRED"),
    "garbage": (lambda _: bearer("garbage"), "TOKEN_INVALID"),
    "expired": (lambda issuer: issuer.metadata(exp=time.time() - 60), "TOKEN_EXPIRED"),
    "not yet valid": (lambda issuer: issuer.metadata(nbf=time.time() + 60), "TOKEN_INVALID"),
    "wrong audience": (lambda issuer: issuer.metadata(aud="other"), "TOKEN_INVALID"),
    "wrong issuer": (lambda issuer: issuer.metadata(iss="https://eve.example"), "TOKEN_INVALID"),
    "wrong key": (lambda issuer: bearer(issuer.token(key=rsa_key("eve"))), "TOKEN_INVALID"),
    "unknown key": (
        lambda issuer: bearer(issuer.token(header={"kid": "eve"}, key=rsa_key("eve"))),
        "TOKEN_INVALID",
    ),
    "alg none": (lambda issuer: bearer(unsigned(issuer)), "TOKEN_INVALID"),
    "HS256": (lambda issuer: bearer(hmac_with_public_key(issuer)), "TOKEN_INVALID"),
    "no tenant": (lambda issuer: issuer.metadata(tenant=None), "TOKEN_INVALID"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_who_is_not_known_does_nothing(issued: Issued, cluster: Cluster, what: str) -> None:
    make, reason = REFUSED[what]
    error = await refused(issued.submit(make(issued.issuer)))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    assert jobs(cluster, "tenant") == []


@pytest.mark.parametrize(("key", "value"), [("rowcall-tenant", "bolt"), ("rowcall-actor", "eve")])
async def test_what_contradicts_the_token_is_refused(issued: Issued, cluster: Cluster, key: str, value: str) -> None:
    error = await refused(issued.submit((*issued.issuer.metadata(), (key, value))))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.PERMISSION_DENIED, "IDENTITY_MISMATCH")
    assert info_of(error).metadata["key"] == key
    assert jobs(cluster, "tenant") == []


async def test_an_admin_names_the_tenant(issued: Issued, cluster: Cluster) -> None:
    error = await refused(issued.submit(issued.admin))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TENANT_REQUIRED")
    await issued.submit((*issued.admin, ("rowcall-tenant", "bolt")))
    assert jobs(cluster, "tenant, actor") == [("bolt", "root")]


async def test_another_tenants_job_does_not_exist_and_an_admins_name_says_the_tenant(issued: Issued) -> None:
    name = await issued.submit(issued.issuer.metadata())
    request = GetOperationRequest(name=name)
    theirs = issued.issuer.metadata(tenant="bolt")
    error = await refused(issued.operations.GetOperation(request, timeout=20, metadata=theirs))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    named = (*issued.admin, ("rowcall-tenant", "bolt"))
    error = await refused(issued.operations.GetOperation(request, timeout=20, metadata=named))
    assert info_of(error).reason == "JOB_NOT_FOUND", "where the admin has named another"
    found = await issued.operations.GetOperation(request, timeout=20, metadata=issued.admin)
    assert found.name == name
    listed = ListOperationsRequest(name="tenants/acme")
    assert [
        each.name
        for each in (await issued.operations.ListOperations(listed, timeout=20, metadata=issued.admin)).operations
    ] == [name]
    error = await refused(issued.operations.ListOperations(ListOperationsRequest(), timeout=20, metadata=issued.admin))
    assert info_of(error).reason == "TENANT_REQUIRED"


async def test_where_callers_are_believed_a_stock_client_finds_an_operation_by_its_name(gateways: Gateways) -> None:
    channel = await gateways.channel(await gateways.start())
    probe = ProbeServiceStub(channel)
    operation = await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))
    request = GetOperationRequest(name=operation.name)
    assert (await OperationsStub(channel).GetOperation(request, timeout=20)).name == operation.name
    error = await refused(OperationsStub(channel).GetOperation(request, timeout=20, metadata=tenant("bolt")))
    assert info_of(error).reason == "JOB_NOT_FOUND"


async def test_a_revoked_token_is_refused_by_every_gateway_within_two_seconds(
    issued: Issued, gateways: Gateways
) -> None:
    other = await gateways.start(identity="jwt", issuers=issued.directory / "issuers.json")
    probe = await gateways.probe(other)
    old = issued.issuer.metadata(iat=time.time() - 60)
    for stub in (issued.probe, probe):
        await stub.Run(RunRequest(), timeout=20, metadata=(*old, NOW))
    await issued.revoke(subject="ada", note="left us")
    revoked_at = time.monotonic()
    error = await refused(issued.submit(old))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED"), "here at once"

    async def is_refused() -> bool:
        try:
            await probe.Run(RunRequest(), timeout=20, metadata=(*old, NOW))
        except grpc.aio.AioRpcError as error:
            return info_of(error).reason == "TOKEN_REVOKED"
        return False

    await until(is_refused, seconds=10, every=0.05)
    # Two seconds, and what a busy machine takes.
    assert time.monotonic() - revoked_at < 4
    # What was issued since is good; issuers' clocks have whole seconds.
    await issued.submit(issued.issuer.metadata(iat=time.time() + 5))
    await issued.submit(issued.issuer.metadata(iat=time.time() - 60, sub="bob"))
    listed = await issued.access.ListRevocations(ListRevocationsRequest(), timeout=20, metadata=issued.admin)
    assert [(each.issuer, each.subject, each.actor, each.note) for each in listed.revocations] == [
        (issued.issuer.name, "ada", "root", "left us")
    ]


async def test_a_typo_is_no_revocation(issued: Issued) -> None:
    request = RevokeCredentialsRequest(issuer=issued.issuer.name + "/", subject="ada")
    error = await refused(issued.access.RevokeCredentials(request, timeout=20, metadata=issued.admin))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "NOT_KNOWN")
    late = RevokeCredentialsRequest(issuer=issued.issuer.name, subject="ada")
    late.before_time.FromSeconds(int(time.time()) + 3600)
    error = await refused(issued.access.RevokeCredentials(late, timeout=20, metadata=issued.admin))
    assert info_of(error).reason == "INVALID_REQUEST"
    listed = await issued.access.ListRevocations(ListRevocationsRequest(), timeout=20, metadata=issued.admin)
    assert list(listed.revocations) == []


async def test_a_waiting_call_is_refused_whose_token_was_revoked_and_its_job_goes_on(
    issued: Issued, bench: Bench, cluster: Cluster
) -> None:
    caller = issued.issuer.metadata(iat=time.time() - 60)
    waiting = asyncio.ensure_future(issued.probe.Echo(EchoRequest(payload=b"a"), timeout=60, metadata=caller))
    [held] = await bench.claim()
    await issued.revoke(subject="ada")
    await asyncio.sleep(1.1)  # it has waited for long enough to be looked at again
    await bench.answer(held, EchoResponse(payload=b"a"))
    error = await refused(waiting)
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED")
    assert trailer(error, "rowcall-operation") == held.name
    assert jobs(cluster, "state") == [("SUCCEEDED",)]


async def test_a_waiting_call_is_refused_whose_token_has_ended(
    issued: Issued, bench: Bench, gateways: Gateways
) -> None:
    write_issuers(issued.directory, issued.issuer.settings("keys.json", leeway="0s"))

    async def counts() -> bool:
        try:
            await issued.submit(issued.issuer.metadata(exp=time.time() - 1))
        except grpc.aio.AioRpcError as error:
            return info_of(error).reason == "TOKEN_EXPIRED"
        return False

    await until(counts, every=0.05)
    await bench.look()
    short = issued.issuer.metadata(exp=time.time() + 2)
    waiting = asyncio.ensure_future(issued.probe.Echo(EchoRequest(payload=b"b"), timeout=60, metadata=short))
    [held] = await bench.claim()
    await asyncio.sleep(2.1)  # its token has ended
    await bench.answer(held, EchoResponse(payload=b"b"))
    error = await refused(waiting)
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_issuers_are_taken_and_left_without_a_restart(issued: Issued) -> None:
    second = TokenIssuer("https://second.example")
    second.keys = {"second": rsa_key("second")}
    (issued.directory / "second.json").write_bytes(second.jwks())
    assert info_of(await refused(issued.submit(second.metadata()))).metadata["problem"] == "issuer"

    async def works(issuer: TokenIssuer) -> bool:
        try:
            await issued.submit(issuer.metadata())
        except grpc.aio.AioRpcError:
            return False
        return True

    first_settings, second_settings = issued.issuer.settings("keys.json"), second.settings("second.json")
    write_issuers(issued.directory, first_settings, second_settings)
    await until(lambda: works(second), every=0.05)
    assert await works(issued.issuer)
    write_issuers(issued.directory, second_settings)

    async def is_left() -> bool:
        return not await works(issued.issuer)

    await until(is_left, every=0.05)
    assert await works(second)
    (issued.directory / "issuers.json").write_text("{")
    await asyncio.sleep(1.5)  # it has been looked at
    assert await works(second), "a file that is wrong changes nothing"


async def test_nothing_of_a_token_is_in_a_log_an_error_or_a_row(
    issued: Issued, cluster: Cluster, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    marker = "mArKeR" * 4
    good = issued.issuer.token(note=marker)
    bad = [
        issued.issuer.token(key=rsa_key("eve"), note=marker),
        issued.issuer.token(exp=1, note=marker),
        issued.issuer.token(aud=marker),
        issued.issuer.token(iss=marker),
        issued.issuer.token(tenant=marker),
        issued.issuer.token(header={"kid": marker}),
        issued.issuer.token(header={"alg": marker}),
        marker,
        f"{marker}.{marker}.{marker}",
    ]
    told = []
    await issued.submit(bearer(good))
    for token in bad:
        error = await refused(issued.submit(bearer(token)))
        told.append(f"{error.code()} {error.details()} {error.trailing_metadata()} {info_of(error)}")
    written = "".join([*told, *capfd.readouterr(), caplog.text, str(jobs(cluster, "*"))])
    for secret in [marker, good.rpartition(".")[2], *(token.rpartition(".")[2] for token in bad)]:
        assert secret not in written
    assert "TOKEN_INVALID" in written


async def test_a_token_that_nobody_looks_at_is_said_once(
    gateways: Gateways, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    probe = await gateways.probe(await gateways.start())
    for _ in range(3):
        await probe.Run(RunRequest(), timeout=20, metadata=(*bearer("a.b.c"), NOW))
    said = caplog.text + "".join(capfd.readouterr())
    assert said.count("nobody looks at it") == 1


async def test_health_needs_no_token(issued: Issued) -> None:
    stub: Any = health_pb2_grpc.HealthStub(issued.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_path_that_nobody_serves_tells_strangers_nothing(issued: Issued) -> None:
    stub: Any = issued.channel.unary_unary("/no.Such/Method")
    error = await refused(stub(b"", timeout=20))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REQUIRED")
