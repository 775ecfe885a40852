"""TLS of Postgres's own: the server asks, refuses and reloads by itself.

What services make of a server that is another, or of none, is tested before a front (`test_tls`), on any machine.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc.aio
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rowcall import embedded
from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.settings import ClusterSettings, SettingsError
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from tests.fix_cluster import CATALOGUE, Cluster, Reached, migrate_all
from tests.fix_commands import Ran
from tests.fix_gateway import Gateways, tenant
from tests.fix_pooler import AccessTo, make_logins
from tests.fix_worker import Workers
from tests.support.pki import DAY, Authority, Files, Issued
from tests.support.steady import KINDS, SECONDS, called, more_than, new_sessions
from tests.support.tls_postgres import TlsPostgres, programs_with_tls
from tests.support.waiting import until

pytestmark = pytest.mark.straight("TLS to the server itself; a pooler has TLS of its own")

OURS: Final = Authority("Ours")
CLIENTS: Final = Authority("Clients")
OTHERS: Final = Authority("Others")
HOST: Final = "localhost"
WORKER: Final = "test_worker"
"""The server knows this login by its certificate alone: by the common name."""


@pytest.fixture(scope="module")
def postgres_with_tls(run_directory: Path) -> Iterator[TlsPostgres]:
    """A server of these tests' own, migrated, with a catalogue and the shard "a"."""
    programs = programs_with_tls()
    if programs is None:
        pytest.skip("no Postgres of this machine is built with TLS: make test-postgres ONLY=postgres-15 has one")
    with embedded.start(run_directory / "with_tls", durable=False, binaries=programs) as server:
        for name in (CATALOGUE, "a"):
            server.create_database(name)
        migrate_all(server.dsn(CATALOGUE), {"a": server.dsn("a")})
        make_logins(server.dsn(CATALOGUE))
        yield TlsPostgres(server, CLIENTS)


@pytest.fixture
async def cluster(postgres_with_tls: TlsPostgres, access_to: AccessTo) -> AsyncIterator[Cluster]:
    """On that server, which shows a certificate of ours for the host."""
    server = postgres_with_tls.server
    await postgres_with_tls.show(OURS.issue(HOST))
    with access_to(server) as access:
        yield Cluster(server.dsn(CATALOGUE), {"a": server.dsn("a")}, access=access)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The services' own certificate, and who signed the server's."""
    files = Files(tmp_path)
    files.put(CLIENTS.issue("db", common_name=WORKER), OURS.pem)
    return files


def over(reached: Reached, files: Files, **changes: str) -> dict[str, Any]:
    """Settings whose connection strings verify the server and show a certificate."""

    def string(dsn: str) -> str:
        parts = conninfo_to_dict(dsn)
        if parts["user"] == WORKER:
            del parts["password"]
        parts |= {"host": HOST, "hostaddr": "127.0.0.1", "sslmode": "verify-full", "sslrootcert": str(files.ca)}
        parts |= {"sslcert": str(files.cert), "sslkey": str(files.key), **changes}
        return make_conninfo(**{key: str(value) for key, value in parts.items() if value})

    return {
        **reached.settings,
        "catalogue": string(reached.catalogue),
        "shards": {name: string(dsn) for name, dsn in reached.shards.items()},
        "pool_timeout": "2s",
    }


async def refused(settings: dict[str, Any]) -> SettingsError:
    """Why a service does not start."""
    with pytest.raises(SettingsError) as raised:
        await Router.open(ClusterSettings(**settings), service="test", workloads=GATEWAY_WORKLOADS)
    return raised.value


@pytest.mark.hinted("listeners are among them")
async def test_every_connection_of_the_services_is_encrypted_as_the_server_sees_it(
    cluster: Cluster, postgres_with_tls: TlsPostgres, gateways: Gateways, workers: Workers, files: Files
) -> None:
    gateway = await gateways.start(**over(cluster.gateway, files), require_database_tls=True)
    await workers.start(**over(cluster.worker, files), require_database_tls=True)
    probe = await gateways.probe(gateway)
    answer = await probe.Echo(EchoRequest(payload=b"x"), timeout=SECONDS, metadata=tenant("acme"))
    assert answer.payload == b"x"
    await until(lambda: {each.application for each in postgres_with_tls.sessions()} >= KINDS)

    sessions = postgres_with_tls.sessions()
    assert [each for each in sessions if not each.encrypted or each.subject != f"/CN={WORKER}"] == []
    assert {each.user for each in sessions} == {"test_gateway", WORKER}


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (OTHERS.issue(HOST), ("certificate verify failed", "do not lower sslmode")),
        (OURS.issue("other.example"), ("does not match host name", "as the server's certificate has it")),
        (OURS.issue(HOST, begins=-2 * DAY, ends=-DAY), ("certificate verify failed", "neither may be expired")),
    ],
    ids=["another's", "another host's", "expired"],
)
async def test_a_server_with_another_certificate_is_not_taken_for_ours(
    cluster: Cluster, postgres_with_tls: TlsPostgres, files: Files, shown: Issued, told: tuple[str, str]
) -> None:
    await postgres_with_tls.show(shown)
    error = await refused(over(cluster.gateway, files))
    assert [problem.where.partition(" ")[0] for problem in error.problems] == ["ROWCALL_SHARDS", "ROWCALL_CATALOGUE"]
    for problem in error.problems:
        assert [part for part in told if part not in problem.what] == []
    assert postgres_with_tls.sessions() == []


async def test_a_server_that_refuses_a_client_is_told_of_with_what_to_do(cluster: Cluster, files: Files) -> None:
    """The server's own words, and ours behind them."""
    plain = str(await refused(over(cluster.gateway, files, sslmode="disable", sslrootcert="", sslcert="", sslkey="")))
    assert "no encryption" in plain
    assert "The server takes connections over TLS only" in plain

    without = str(await refused(over(cluster.gateway, files, sslcert="", sslkey="")))
    assert "requires a valid client certificate" in without
    assert "name it with sslcert and sslkey" in without

    for wrong in (OTHERS.issue("db"), CLIENTS.issue("db", begins=-2 * DAY, ends=-DAY)):
        files.put(wrong, OURS.pem)
        assert "name it with sslcert and sslkey" in str(await refused(over(cluster.gateway, files)))

    files.put(CLIENTS.issue("db", common_name="somebody"), OURS.pem)
    another = str(await refused(over(cluster.worker, files)))
    assert "certificate authentication failed" in another
    assert "for this login" in another


@pytest.mark.hinted("listeners are among what comes back")
async def test_no_call_fails_while_the_server_is_reloaded_with_another_certificate(
    cluster: Cluster, postgres_with_tls: TlsPostgres, gateways: Gateways, workers: Workers, files: Files
) -> None:
    """First both authorities are trusted, then the server is another's, then that one alone. The services' own certificate is
    exchanged as well."""
    gateway = await gateways.start(**over(cluster.gateway, files))
    await workers.start(**over(cluster.worker, files))
    first, second = (CLIENTS.issue("db", common_name=WORKER) for _ in range(2))

    async with called(gateway.address) as answered:
        files.put(first, OURS.pem + OTHERS.pem)
        await new_sessions(gateway)
        await postgres_with_tls.show(OTHERS.issue(HOST))
        await new_sessions(gateway)
        await more_than(answered, 20)
        files.put(second, OTHERS.pem)
        await new_sessions(gateway)
        await more_than(answered, 20)

    # Each other kind of connection is made anew, once there is something to do, with what is there now.
    postgres_with_tls.end_sessions()
    probe = await gateways.probe(gateway)

    async def are_new() -> bool:
        with suppress(grpc.aio.AioRpcError):
            await probe.Echo(EchoRequest(payload=b"x"), timeout=2, metadata=tenant("acme"))
        serial = second.certificate.serial_number
        return {each.application for each in postgres_with_tls.sessions() if each.serial == serial} >= KINDS

    await until(are_new, seconds=40, every=0.1)


def test_migrations_are_run_over_it(
    rowcall: Callable[..., Ran], cluster: Cluster, postgres_with_tls: TlsPostgres, files: Files
) -> None:
    def migrate(**changes: str) -> Ran:
        told = over(cluster.of("test_services"), files, **changes)
        return rowcall(
            "migrate", "--status", ROWCALL_CATALOGUE=told["catalogue"], ROWCALL_SHARDS=json.dumps(told["shards"])
        )

    ran = migrate()
    assert ran.code == 0, ran.err
    elsewhere = migrate(host="other.example")
    assert elsewhere.code == 3
    assert "does not match host name" in elsewhere.err
    assert "Traceback" not in elsewhere.err
