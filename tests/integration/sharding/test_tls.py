"""TLS to Postgres: every connection of the services has it, and nobody else is taken for the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from structlog.testing import capture_logs

from rowcall.errors import RowcallError
from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.settings import ClusterSettings, SettingsError
from rowcall.sharding import GATEWAY_WORKLOADS, Router, Workload
from tests.fix_cluster import Cluster
from tests.fix_commands import Ran
from tests.fix_gateway import Gateways, tenant
from tests.fix_worker import Workers
from tests.support.pki import DAY, Authority, Files, Issued
from tests.support.tls_front import TlsFront
from tests.support.waiting import until

pytestmark = pytest.mark.straight("TLS to the server itself; a pooler has TLS of its own")

OURS: Final = Authority("Ours")
CLIENTS: Final = Authority("Clients")
OTHERS: Final = Authority("Others")
HOST: Final = "localhost"
MARKER: Final = "geheim-4111"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The services' own certificate, and who signed the server's."""
    (tmp_path / "files").mkdir()
    files = Files(tmp_path / "files")
    files.put(CLIENTS.issue("db"), OURS.pem)
    return files


def over(front: TlsFront, cluster: Cluster, files: Files, **parameters: str) -> dict[str, Any]:
    """Settings whose connection strings lead through a front, and verify it."""
    told = {"sslmode": "verify-full", "sslrootcert": str(files.ca), **parameters}
    return {
        **cluster.settings,
        "catalogue": front.before(cluster.catalogue_dsn, **told),
        "shards": {name: front.before(dsn, **told) for name, dsn in cluster.shards.items()},
        "pool_timeout": "2s",
    }


async def start(settings: Mapping[str, Any]) -> None:
    """A start that is refused before it begins."""
    async with await Router.open(ClusterSettings(**settings), service="test", workloads=GATEWAY_WORKLOADS):
        pass


async def test_every_connection_of_the_services_is_encrypted(
    cluster: Cluster, gateways: Gateways, workers: Workers, tmp_path: Path, files: Files
) -> None:
    with TlsFront(cluster.catalogue_dsn, tmp_path, OURS.issue(HOST), clients=CLIENTS) as front:
        told = over(front, cluster, files, sslcert=str(files.cert), sslkey=str(files.key))
        gateway = await gateways.start(**told, require_database_tls=True)
        worker = await workers.start(**told, require_database_tls=True)
        probe = await gateways.probe(gateway)
        answer = await probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=tenant("acme"))
        assert answer.payload == b"x"
        await worker.drain()
        await gateway.stop()

    assert front.plain == 0
    assert front.agreed > 10
    # And the server was told who calls by each of them.
    assert len(front.subjects) == front.agreed


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (OTHERS.issue(HOST), ("certificate verify failed", "do not lower sslmode")),
        (OURS.issue("other.example"), ("does not match host name", "as the server's certificate has it")),
        (OURS.issue(HOST, begins=-2 * DAY, ends=-DAY), ("certificate verify failed", "neither may be expired")),
        (None, ("server does not support SSL", "ssl = on")),
    ],
)
async def test_another_server_is_not_taken_for_ours(
    cluster: Cluster, tmp_path: Path, files: Files, shown: Issued | None, told: tuple[str, str]
) -> None:
    with TlsFront(cluster.catalogue_dsn, tmp_path, shown) as front:
        with pytest.raises(SettingsError) as refused:
            await start(over(front, cluster, files))
        wheres = [problem.where for problem in refused.value.problems]
        assert wheres[0].startswith("ROWCALL_SHARDS (--shard a=")
        for problem in refused.value.problems:
            assert [part for part in told if part not in problem.what] == []
    assert front.plain == 0


async def test_a_server_that_asks_for_a_certificate_is_told_of(cluster: Cluster, tmp_path: Path, files: Files) -> None:
    with TlsFront(cluster.catalogue_dsn, tmp_path, OURS.issue(HOST), clients=CLIENTS) as front:
        with pytest.raises(SettingsError, match="name it with sslcert and sslkey"):
            await start(over(front, cluster, files))
        files.put(OTHERS.issue("db"), OURS.pem)
        with pytest.raises(SettingsError, match="name it with sslcert and sslkey"):
            await start(over(front, cluster, files, sslcert=str(files.cert), sslkey=str(files.key)))


async def test_certificates_on_both_sides_are_exchanged_without_a_restart(
    cluster: Cluster, tmp_path: Path, files: Files
) -> None:
    """libpq reads the files for each connection."""
    with TlsFront(cluster.catalogue_dsn, tmp_path, OURS.issue(HOST), clients=CLIENTS) as front:
        told = over(front, cluster, files, sslcert=str(files.cert), sslkey=str(files.key))
        settings = ClusterSettings(**told)
        async with await Router.open(settings, service="test", workloads=GATEWAY_WORKLOADS) as router:
            pool = router.shard("a").pool(Workload.READ)
            async with pool.connection() as connection:
                await connection.execute("select 1")
            # The server is signed by another, whom the file has by then beside the earlier one.
            files.put(CLIENTS.issue("db", common_name="exchanged"), OURS.pem + OTHERS.pem)
            front.exchange(OTHERS.issue(HOST))
            await pool.drain()
            async with pool.connection() as connection:
                await connection.execute("select 1")
    assert front.subjects[0] == "test"
    assert "exchanged" in front.subjects


async def test_a_server_that_is_exchanged_for_another_gets_no_call(
    cluster: Cluster, tmp_path: Path, files: Files
) -> None:
    with TlsFront(cluster.catalogue_dsn, tmp_path, OURS.issue(HOST)) as front:
        settings = ClusterSettings(**over(front, cluster, files))
        async with await Router.open(settings, service="test", workloads=GATEWAY_WORKLOADS) as router:
            pool = router.shard("a").pool(Workload.READ)
            async with pool.connection() as connection:
                await connection.execute("select 1")
            front.exchange(OTHERS.issue(HOST))
            with capture_logs() as lines:

                async def is_refused() -> bool:
                    # One that was on its way when the server was exchanged, too.
                    _end_sessions(cluster, "a")
                    try:
                        async with pool.connection() as connection:
                            await connection.execute("select 1")
                    except RowcallError as error:
                        return "cannot be reached" in error.message
                    except psycopg.Error:
                        return False  # the session that was ended has just said so
                    return False

                await until(is_refused)
                agreed = front.agreed
                assert await is_refused()
            causes = [line["cause"] for line in lines if line.get("pool") == "a read" and "cause" in line]
            assert causes
            assert all("do not lower sslmode" in cause for cause in causes)
            assert front.agreed == agreed

            front.exchange(OURS.issue(HOST))

            async def is_back() -> bool:
                try:
                    async with pool.connection() as connection:
                        await connection.execute("select 1")
                except (RowcallError, psycopg.Error):
                    return False
                return True

            await until(is_back)


def _end_sessions(cluster: Cluster, shard: str) -> None:
    with psycopg.connect(cluster.shards[shard], autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize("shown", [OTHERS.issue(HOST), None], ids=["another", "plaintext"])
def test_a_migration_is_not_run_on_another_server(
    rowcall: Callable[..., Ran], cluster: Cluster, tmp_path: Path, files: Files, shown: Issued | None
) -> None:
    with TlsFront(cluster.catalogue_dsn, tmp_path, shown) as front:
        told = over(front, cluster, files, password=MARKER)
        ran = rowcall(
            "migrate", "--status", ROWCALL_CATALOGUE=told["catalogue"], ROWCALL_SHARDS=json.dumps(told["shards"])
        )
    assert ran.code == 3
    assert ("sslrootcert must have" if shown else "ssl = on") in ran.err
    assert "Traceback" not in ran.err
    assert MARKER not in ran.err


def test_migrations_are_run_over_tls(
    rowcall: Callable[..., Ran], cluster: Cluster, tmp_path: Path, files: Files
) -> None:
    with TlsFront(cluster.catalogue_dsn, tmp_path, OURS.issue(HOST)) as front:
        told = over(front, cluster, files)
        ran = rowcall(
            "migrate", "--status", ROWCALL_CATALOGUE=told["catalogue"], ROWCALL_SHARDS=json.dumps(told["shards"])
        )
    assert ran.code == 0, ran.err
    assert (front.plain, front.agreed) == (0, 1 + len(cluster.shards))


async def test_connections_over_a_network_that_verify_nobody_are_told_of_at_the_start(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as lines:
        await start(cluster.settings)
    assert [line for line in lines if "verify no server" in line["event"]] == [], "the tests' server is on this machine"

    # As if its address were not a loopback one.
    monkeypatch.setattr("rowcall.settings.dsn._stays", lambda host: False)
    with capture_logs() as lines:
        await start(cluster.settings)
    (line,) = [line for line in lines if "verify no server" in line["event"]]
    assert line["databases"] == ["the catalogue", *(f"shard {name!r}" for name in cluster.shards)]
    assert line["log_level"] == "warning"
