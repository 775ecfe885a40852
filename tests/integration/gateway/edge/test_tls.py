"""A gateway over TLS: certificates exchanged under load, callers' certificates asked for, health told of without either."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rowcall.settings import SettingsError
from rowcall.v1 import job_service_pb2, job_service_pb2_grpc
from rowcall_gateway import healthcheck
from rowcall_gateway.server import Gateway
from tests.fix_gateway import Gateways, tenant
from tests.fix_services import Services
from tests.support.pki import DAY, Authority, Files, Issued
from tests.support.waiting import until

NAME: Final = "gateway.example"
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
SECONDS: Final = 20.0

OURS = Authority("Ours")
CALLERS = Authority("Callers")
OTHERS = Authority("Others")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.put(OURS.issue(NAME), CALLERS.pem)
    return files


def told(files: Files, *, asks_callers: bool = False) -> dict[str, Any]:
    """A gateway's settings with these files."""
    settings: dict[str, Any] = {"tls_cert": files.cert, "tls_key": files.key}
    return {**settings, "tls_client_ca": files.ca} if asks_callers else settings


@asynccontextmanager
async def connected(
    gateway: Gateway, caller: Issued | None = None, *, trusts: bytes = OURS.pem, name: str = NAME
) -> AsyncIterator[job_service_pb2_grpc.JobServiceAsyncStub]:
    """The jobs' stub over a connection of its own."""
    credentials = grpc.ssl_channel_credentials(
        trusts, None if caller is None else caller.key_pem, None if caller is None else caller.cert_pem
    )
    options = (("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.secure_channel(gateway.address, credentials, options=options) as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel)


async def ask(stub: job_service_pb2_grpc.JobServiceAsyncStub) -> None:
    await stub.ListJobs(job_service_pb2.ListJobsRequest(), metadata=tenant("acme"), timeout=SECONDS)


async def ended(stub: job_service_pb2_grpc.JobServiceAsyncStub) -> grpc.StatusCode:
    """What a call ends with; anything else than an answer, and than a connection that does not come about, fails the test."""
    try:
        await ask(stub)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return error.code()
    return grpc.StatusCode.OK


async def refused(gateway: Gateway, caller: Issued | None = None, **options: Any) -> bool:
    """Whether a caller's connection does not come about."""
    async with connected(gateway, caller, **options) as stub:
        return await ended(stub) is grpc.StatusCode.UNAVAILABLE


async def shown(gateway: Gateway, caller: Issued | None = None, directory: Path | None = None) -> int:
    """The serial number of the certificate that a new connection gets."""

    def shake_hands() -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=OURS.pem.decode())
        context.set_alpn_protocols(["h2"])
        if caller is not None and directory is not None:
            (directory / "caller.pem").write_bytes(caller.cert_pem + caller.key_pem)
            context.load_cert_chain(directory / "caller.pem")
        with (
            socket.create_connection(("127.0.0.1", gateway.port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as secure,
        ):
            found: Any = secure.getpeercert()
            return int(found["serialNumber"], 16)

    return await asyncio.to_thread(shake_hands)


async def test_callers_are_served_over_tls_and_in_no_other_way(gateways: Gateways, files: Files) -> None:
    gateway = await gateways.start(**told(files))

    assert not await refused(gateway)
    assert await refused(gateway, trusts=OTHERS.pem)
    assert await refused(gateway, name="other.example")
    plain = job_service_pb2_grpc.JobServiceStub(await gateways.channel(gateway))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ask(plain)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not await refused(gateway)


async def test_callers_without_a_certificate_of_who_is_trusted_are_refused(gateways: Gateways, files: Files) -> None:
    gateway = await gateways.start(**told(files, asks_callers=True))

    assert not await refused(gateway, CALLERS.issue("caller.example"))
    assert await refused(gateway)
    assert await refused(gateway, OTHERS.issue("caller.example"))
    assert await refused(gateway, CALLERS.issue("caller.example", begins=-2 * DAY, ends=-DAY))


class Load:
    """Calls without a pause: over connections that stay, and over new ones."""

    def __init__(self, gateway: Gateway, caller: Callable[[], Issued | None]) -> None:
        self.calls = 0
        self.connections = 0
        self._gateway = gateway
        self._caller = caller
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Until it is told to end; raises what a call fails with."""
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(self._stay())
            group.create_task(self._come_and_go())

    def end(self) -> None:
        self._over.set()

    async def _stay(self) -> None:
        async with connected(self._gateway, self._caller()) as stub:
            while not self._over.is_set():
                await ask(stub)
                self.calls += 1

    async def _come_and_go(self) -> None:
        while not self._over.is_set():
            async with connected(self._gateway, self._caller()) as stub:
                await ask(stub)
                self.calls += 1
                self.connections += 1


@asynccontextmanager
async def loaded(gateway: Gateway, caller: Callable[[], Issued | None]) -> AsyncIterator[Load]:
    """Has calls made the whole time; fails if one does."""
    load = Load(gateway, caller)
    async with AsyncExitStack() as stack:
        running = asyncio.ensure_future(load.run())
        stack.callback(running.cancel)
        await until(lambda: load.calls > 5 or running.done())
        yield load
        load.end()
        await running


async def test_no_call_fails_while_certificates_are_exchanged(gateways: Gateways, files: Files, tmp_path: Path) -> None:
    """The gateway's certificate, and then who may sign callers': first both, then the new one alone."""
    callers = [CALLERS.issue("caller.example")]
    gateway = await gateways.start(**told(files, asks_callers=True))

    async with loaded(gateway, lambda: callers[-1]) as load:
        exchanged = [OURS.issue(NAME) for _ in range(3)]
        for ours in exchanged:
            files.put(ours, CALLERS.pem)
            serial = ours.certificate.serial_number

            async def is_shown(serial: int = serial) -> bool:
                return await shown(gateway, callers[-1], tmp_path) == serial

            await until(is_shown, every=0.05)
            before = load.connections
            await until(lambda before=before: load.connections > before)  # type: ignore[misc]

        files.put(exchanged[-1], CALLERS.pem + OTHERS.pem)
        new = OTHERS.issue("caller.example")

        async def is_taken() -> bool:
            return not await refused(gateway, new)

        await until(is_taken, every=0.05)
        callers.append(new)
        before = load.connections
        await until(lambda: load.connections > before + 1)

        files.put(exchanged[-1], OTHERS.pem)

        async def is_out() -> bool:
            return await refused(gateway, callers[0])

        # The connections that stay were made with it, and stay.
        await until(is_out, every=0.05)
        calls = load.calls
        await until(lambda: load.calls > calls + 10)
    assert not await refused(gateway, new)


def shake_hands(port: int, over: threading.Event, done: list[int]) -> None:
    """Handshakes without a pause; each that came about is noted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=OURS.pem.decode())
    context.set_alpn_protocols(["h2"])
    while not over.is_set():
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=NAME),
        ):
            done.append(1)


async def test_a_gateway_lives_through_exchanges_among_handshakes(services: Services, files: Files) -> None:
    """gRPC's core frees the certificate that it had under threads that shake hands with it: enough of both end the process."""
    gateway = services.gateway(ROWCALL_TLS_CERT=str(files.cert), ROWCALL_TLS_KEY=str(files.key))
    port = int(gateway.address().rpartition(":")[2])
    over, done = threading.Event(), list[int]()

    def reached(exchanges: int, handshakes: int) -> bool:
        exchanged = sum("certificate exchanged" in line for line in gateway.log)
        return (exchanged >= exchanges and len(done) >= handshakes) or gateway.process.poll() is not None

    with ThreadPoolExecutor(16) as threads:
        for _ in range(16):
            threads.submit(shake_hands, port, over, done)
        try:
            for exchanges in range(1, 4):
                files.put(OURS.issue(NAME), CALLERS.pem)
                await until(lambda exchanges=exchanges: reached(exchanges, 400 * exchanges), seconds=60)  # type: ignore[misc]
        finally:
            over.set()
    assert gateway.process.poll() is None


async def test_a_connection_does_not_outlive_the_trust_in_its_certificate_for_long(
    gateways: Gateways, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcall_gateway.edge.transport.AGE", timedelta(seconds=1))
    gateway = await gateways.start(**told(files, asks_callers=True))

    async with connected(gateway, CALLERS.issue("caller.example")) as stub:
        await ask(stub)
        files.put(OURS.issue(NAME), OTHERS.pem)

        async def is_out() -> bool:
            return await ended(stub) is grpc.StatusCode.UNAVAILABLE

        await until(is_out)


async def test_no_call_fails_while_the_files_are_wrong(gateways: Gateways, files: Files, tmp_path: Path) -> None:
    gateway = await gateways.start(**told(files))
    serial = await shown(gateway)

    async with loaded(gateway, lambda: None) as load:
        issued = OURS.issue(NAME)
        for wrong in ({"key": b"half of a k"}, {"cert": b""}, {"key": OTHERS.issue(NAME).key_pem}):
            files.put(issued, **wrong)
            connections = load.connections
            await until(lambda connections=connections: load.connections > connections + 5)  # type: ignore[misc]
        files.key.unlink()
        connections = load.connections
        await until(lambda: load.connections > connections + 5)
        assert await shown(gateway) == serial


async def test_health_is_told_where_nobody_needs_a_certificate(gateways: Gateways, files: Files) -> None:
    gateway = await gateways.start(**told(files, asks_callers=True), health_listen="127.0.0.1:0")

    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.health_port}") as channel:
        # The stubs do not know its methods.
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert answer.status == SERVING
        # And nothing else.
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask(job_service_pb2_grpc.JobServiceStub(channel))
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await gateway.stop()
    assert healthcheck_of(f"127.0.0.1:{gateway.health_port}")[0] == 1


def healthcheck_of(listen: str, **variables: str) -> tuple[int, str]:
    """What the check of a container says of a gateway: exit code and line."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        for name in ("ROWCALL_HEALTH_LISTEN", "ROWCALL_TLS_CERT", "ROWCALL_TLS_CLIENT_CA"):
            patch.delenv(name, raising=False)
        for name, value in {"ROWCALL_LISTEN": listen, "GRPC_VERBOSITY": "NONE", **variables}.items():
            patch.setenv(name, value)
        code = healthcheck.main()
    return code, said.getvalue().strip()


async def test_the_check_of_a_container_asks_over_tls(gateways: Gateways, files: Files, tmp_path: Path) -> None:
    gateway = await gateways.start(**told(files))
    over_tls = {"ROWCALL_TLS_CERT": str(files.cert)}

    code, line = await asyncio.to_thread(healthcheck_of, gateway.address, **over_tls)
    assert (code, line) == (0, f"rowcall-gateway: {gateway.address} is SERVING")
    assert (await asyncio.to_thread(healthcheck_of, gateway.address))[0] == 1

    # Somebody else who answers there is not the gateway.
    other = tmp_path / "other.crt"
    other.write_bytes(OTHERS.issue(NAME).cert_pem)
    code, line = await asyncio.to_thread(healthcheck_of, gateway.address, ROWCALL_TLS_CERT=str(other))
    assert (code, "UNAVAILABLE" in line) == (1, True)
    other.write_bytes(b"nothing")
    code, line = await asyncio.to_thread(healthcheck_of, gateway.address, ROWCALL_TLS_CERT=str(other))
    assert (code, "cannot be used" in line) == (1, True)


async def test_the_check_of_a_container_says_what_it_needs_where_callers_show_certificates(
    gateways: Gateways, files: Files
) -> None:
    gateway = await gateways.start(**told(files, asks_callers=True), health_listen="127.0.0.1:0")
    variables = {"ROWCALL_TLS_CERT": str(files.cert), "ROWCALL_TLS_CLIENT_CA": str(files.ca)}

    code, line = await asyncio.to_thread(healthcheck_of, gateway.address, **variables)
    assert (code, "set ROWCALL_HEALTH_LISTEN" in line) == (1, True)
    health = f"127.0.0.1:{gateway.health_port}"
    code, line = await asyncio.to_thread(healthcheck_of, gateway.address, **variables, ROWCALL_HEALTH_LISTEN=health)
    assert (code, line) == (0, f"rowcall-gateway: {health} is SERVING")


async def test_files_that_are_wrong_at_the_start_are_refused_by_name(gateways: Gateways, files: Files) -> None:
    issued = OURS.issue(NAME)
    files.put(issued, key=OTHERS.issue(NAME).key_pem)
    with pytest.raises(SettingsError, match=r"ROWCALL_TLS_KEY \(--tls-key\) .* is not the key of the certificate"):
        await gateways.start(**told(files))
    files.put(issued, b"nothing")
    with pytest.raises(SettingsError, match=r"ROWCALL_TLS_CLIENT_CA \(--tls-client-ca\) .* no certificate in PEM"):
        await gateways.start(**told(files, asks_callers=True))


def test_a_gateway_says_what_is_wrong_and_never_what_its_key_is(services: Services, files: Files) -> None:
    issued = OURS.issue(NAME)
    secret = issued.key_pem.splitlines()[1].decode()
    files.put(issued, cert=issued.key_pem)
    gateway = services.gateway(ROWCALL_TLS_CERT=str(files.cert), ROWCALL_TLS_KEY=str(files.key))

    assert gateway.process.wait(SECONDS * 4) == 2
    gateway.all_gone()
    said = "".join(gateway.log)
    assert "ROWCALL_TLS_CERT (--tls-cert)" in said
    assert "holds a key" in said
    assert "Traceback" not in said
    assert secret not in said
