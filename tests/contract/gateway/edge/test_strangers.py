"""What a gateway does for those who are nobody: it says so, at once, and takes in nothing of theirs before."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from structlog.testing import capture_logs

from rowcall.errors import read_envelope, status_of
from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall.v1.access_service_pb2 import RevokeCredentialsRequest
from rowcall.v1.access_service_pb2_grpc import AccessServiceStub
from rowcall_gateway.edge import handlers, interceptor
from tests.contract.gateway.edge.test_access import OPEN
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, Metadata, info_of, jobs, refused
from tests.fix_images import ImageBuilder
from tests.support import http2
from tests.support.http2 import Raw
from tests.support.rpcs import EVERY
from tests.support.tokens import TokenIssuer, bearer
from tests.support.waiting import until

RUN = "/rowcall.probe.v1.ProbeService/Run"
CHECK = "/grpc.health.v1.Health/Check"
SECONDS = 20.0


class Slow:
    """A call whose request is on its way until it is let go: on the wire, any unary call of a slow client's."""

    def __init__(self, channel: grpc.aio.Channel, path: str, metadata: Metadata = (), request: bytes = b"") -> None:
        self._go = asyncio.Event()
        self._request = request
        call: Callable[..., Any] = channel.stream_unary(path)
        self.answer: asyncio.Future[bytes] = asyncio.ensure_future(_answer(call, self._requests(), metadata))

    def send(self) -> None:
        """Now its request comes."""
        self._go.set()

    async def _requests(self) -> AsyncIterator[bytes]:
        await self._go.wait()
        yield self._request


async def _answer(call: Callable[..., Any], requests: AsyncIterator[bytes], metadata: Metadata) -> bytes:
    answer: bytes = await call(requests, timeout=SECONDS, metadata=metadata)
    return answer


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture
async def channel(gateways: Gateways, issuer: TokenIssuer, tmp_path: Path) -> grpc.aio.Channel:
    return await gateways.channel(await gateways.start(identity="jwt", issuers=issuer.write(tmp_path)))


async def test_who_is_nobody_is_told_so_before_the_request_comes(channel: grpc.aio.Channel, cluster: Cluster) -> None:
    """Or a connection would have the gateway hold as much as a request may have, on each of its streams."""
    paths = [*(f"/{rpc.name}" for rpc in EVERY), "/no.Such/Method"]
    for path in paths:
        error = await refused(Slow(channel, path).answer)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REQUIRED"), path
    assert jobs(cluster, "name") == []


async def test_who_may_not_call_is_told_so_before_the_request_comes(
    channel: grpc.aio.Channel, issuer: TokenIssuer
) -> None:
    error = await refused(Slow(channel, RUN, issuer.metadata(roles=["viewer"])).answer)
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.PERMISSION_DENIED, "MISSING_ROLE")


async def test_a_request_may_take_its_time_whose_caller_is_known(
    channel: grpc.aio.Channel, issuer: TokenIssuer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "NOBODYS_SECONDS", 0.01)
    slow = Slow(channel, RUN, (*issuer.metadata(), ("prefer", "wait=0")), RunRequest().SerializeToString())
    done, _ = await asyncio.wait({slow.answer}, timeout=1)
    assert not done
    slow.send()
    await slow.answer
    assert jobs(cluster, "tenant, actor") == [("acme", "ada")]


async def test_a_credential_that_ends_while_the_request_comes_is_no_credential(
    channel: grpc.aio.Channel, issuer: TokenIssuer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "LOOK_AGAIN_AFTER", 0.0)
    caller = issuer.metadata(iat=time.time() - 60)
    slow = Slow(channel, RUN, (*caller, ("prefer", "wait=0")), RunRequest().SerializeToString())
    # Its headers are there before those of a call that is answered.
    call: Callable[..., Any] = channel.unary_unary(RUN)
    await call(b"", timeout=SECONDS, metadata=(*caller, ("prefer", "wait=0")))
    revocation = RevokeCredentialsRequest(issuer=issuer.name, subject="ada")
    admin = issuer.metadata(roles=["admin"], sub="root")
    await AccessServiceStub(channel).RevokeCredentials(revocation, timeout=SECONDS, metadata=admin)

    async def is_over() -> bool:
        return info_of(await refused(call(b"\xff", timeout=SECONDS, metadata=caller))).reason == "TOKEN_REVOKED"

    await until(is_over)
    assert not slow.answer.done()
    slow.send()

    error = await refused(slow.answer)
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED")
    assert len(jobs(cluster, "name")) == 1, "that of the call before"


async def test_a_call_without_a_request_is_told_so(
    channel: grpc.aio.Channel, issuer: TokenIssuer, cluster: Cluster
) -> None:
    async def none() -> AsyncIterator[bytes]:
        for each in list[bytes]():
            yield each

    call: Callable[..., Any] = channel.stream_unary(RUN)
    error = await refused(call(none(), timeout=SECONDS, metadata=issuer.metadata()))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE_REQUEST")
    assert jobs(cluster, "name") == []


async def test_who_resets_calls_as_they_are_refused_writes_no_tracebacks(
    gateways: Gateways, issuer: TokenIssuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    headers = http2.block(RUN.encode())
    async with Raw.open(("127.0.0.1", gateway.port)) as raw:
        await raw.begin()
        calls = [
            http2.frame(http2.HEADERS, http2.END_HEADERS, stream, headers) + http2.reset(stream)
            for stream in range(1, 1_000, 2)
        ]
        await raw.send(http2.joined(calls))
        # Behind them.
        await raw.send(http2.call(1_001, http2.block(CHECK.encode()), http2.message(b"")))
        await until(lambda: raw.seen[http2.DATA] > 0)
    call: Callable[..., Any] = (await gateways.channel(gateway)).unary_unary(RUN)
    await call(b"", timeout=SECONDS, metadata=(*issuer.metadata(), ("prefer", "wait=0")))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("key", [b"authorization", b"rowcall-actor", b"x-mine"])
async def test_metadata_that_is_no_text_is_quoted_in_no_log(
    gateways: Gateways, issuer: TokenIssuer, tmp_path: Path, caplog: pytest.LogCaptureFixture, key: bytes
) -> None:
    """A token with one wrong letter in it is nearly a token."""
    gateway = await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))
    async with Raw.open(("127.0.0.1", gateway.port)) as raw:
        await raw.begin()
        headers = http2.block(RUN.encode(), (key, b"Bearer nearly-a-token\xa0"))
        await raw.send(http2.call(1, headers, http2.message(b"")))
        await until(lambda: raw.seen[http2.HEADERS] > 0 or raw.seen[http2.RST_STREAM] > 0)
    assert "nearly" not in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        ("rowcall-nonsense", "x"),
        ("rowcall-run-at", "soon"),
        ("rowcall-tenant", "A_B"),
        ("rowcall-label-x-bin", b"\xff"),
        ("prefer", "wait=soon"),
    ],
    ids=lambda wrong: str(wrong[0]),
)
async def test_who_is_nobody_is_told_of_that_and_nothing_else(
    channel: grpc.aio.Channel, issuer: TokenIssuer, wrong: tuple[str, str | bytes]
) -> None:
    call: Callable[..., Any] = channel.unary_unary(RUN)

    nobody = await refused(call(b"\xff", timeout=SECONDS, metadata=(wrong,)))
    garbled = await refused(call(b"\xff", timeout=SECONDS, metadata=(*bearer("a.b.c"), wrong)))
    known = await refused(call(b"\xff", timeout=SECONDS, metadata=(*issuer.metadata(roles=["admin"]), wrong)))

    assert (nobody.code(), info_of(nobody).reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REQUIRED")
    assert (garbled.code(), info_of(garbled).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    assert wrong[0] not in f"{nobody.details()} {info_of(nobody)} {garbled.details()} {info_of(garbled)}"
    assert info_of(known).reason in {"UNKNOWN_METADATA", "INVALID_METADATA", "INVALID_TENANT"}


@pytest.mark.parametrize("said", ["rowcall-nonsense-", "rowcall-label-"])
async def test_what_is_wrong_is_told_of_a_key_of_any_length(
    channel: grpc.aio.Channel, issuer: TokenIssuer, said: str
) -> None:
    call: Callable[..., Any] = channel.unary_unary(RUN)
    metadata = (*issuer.metadata(), (said + "x" * 6_000, "y"))
    error = await refused(call(b"", timeout=SECONDS, metadata=metadata))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, "an answer as long would be no answer"
    assert info_of(error).metadata["key"] == (said + "x" * 255)[:255]


async def test_a_path_of_any_length_is_a_line_of_some_length(channel: grpc.aio.Channel, issuer: TokenIssuer) -> None:
    call: Callable[..., Any] = channel.unary_unary("/no.Such/" + "x" * 6_000)
    with capture_logs() as lines:
        nobody = await refused(call(b"", timeout=SECONDS))
        known = await refused(call(b"", timeout=SECONDS, metadata=issuer.metadata()))
    assert info_of(nobody).reason == "CREDENTIALS_REQUIRED"
    assert (known.code(), info_of(known).reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")
    methods = [line["method"] for line in lines if line["event"] == "call"]
    assert methods == ["no.Such/" + "x" * 246 + "…"] * 2


async def test_a_request_of_nobodys_has_seconds(
    gateways: Gateways, issuer: TokenIssuer, tmp_path: Path, build_image: ImageBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health, and what an image has made public, may be called by everybody: for so long they may have a request held."""
    monkeypatch.setattr(handlers, "NOBODYS_SECONDS", 0.2)
    gateway = await gateways.start(
        identity="jwt",
        issuers=issuer.write(tmp_path),
        images=[build_image({"acme/v1/shop.proto": OPEN})],
        public_tenant="public",
    )
    channel = await gateways.channel(gateway)

    for path in (CHECK, "/acme.v1.Shop/Buy"):
        error = await refused(Slow(channel, path).answer)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT"), path


async def test_the_port_of_health_has_bounds_too(gateways: Gateways) -> None:
    gateway = await gateways.start(health_listen="127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.health_port}") as channel:
        check: Callable[..., Any] = channel.unary_unary(CHECK)
        large = health_pb2.HealthCheckRequest(service="x" * 5_000).SerializeToString()
        assert (await refused(check(large, timeout=SECONDS))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await check(b"", timeout=SECONDS) == b"\x08\x01"


async def test_a_health_check_is_small(channel: grpc.aio.Channel) -> None:
    """Who watches has what it asked held for as long as it watches."""
    small = health_pb2.HealthCheckRequest(service="x" * 4_000).SerializeToString()
    large = health_pb2.HealthCheckRequest(service="x" * 5_000).SerializeToString()
    check: Callable[..., Any] = channel.unary_unary(CHECK)
    watch: Callable[..., Any] = channel.unary_stream("/grpc.health.v1.Health/Watch")

    error = await refused(check(small, timeout=SECONDS))
    assert (error.code(), read_envelope(status_of(error))) == (grpc.StatusCode.NOT_FOUND, None)
    assert info_of(await refused(check(large, timeout=SECONDS))).reason == "REQUEST_TOO_LARGE"
    async for state in watch(small, timeout=SECONDS):
        assert health_pb2.HealthCheckResponse.FromString(state).status == 3, "it is not known"
        break
    assert info_of(await refused(watch(large, timeout=SECONDS).read())).reason == "REQUEST_TOO_LARGE"
