"""What a session needs is set by us: whatever a database, a login, the environment or a connection string says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from structlog.testing import capture_logs

from rowcall import sessions
from rowcall.migrations import check_schema, migrate
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.settings import ClusterSettings, SettingsError
from rowcall.sharding import Router, Shard, Workload
from rowcall_gateway.server import Gateway
from rowcall_worker import Worker
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways
from tests.fix_worker import Call, Calls, Workers
from tests.support.hostile import HOSTILE, make_hostile

pytestmark = pytest.mark.straight("PgBouncer refuses startup options")

LOWERED = {"synchronous_commit": "off"}


def settings_of(cluster: Cluster, **changed: object) -> ClusterSettings:
    return ClusterSettings.model_validate({**cluster.settings, **changed})


async def current(shard: Shard, workload: Workload, *names: str) -> TupleRow:
    """Settings of a session of a pool."""
    async with shard.pool(workload).connection(10) as connection:
        cursor = await connection.execute(
            b"select " + b", ".join(f"current_setting('{name}')".encode() for name in names)
        )
        (row,) = await cursor.fetchall()
        return row


@pytest.mark.parametrize("workload", [each for each in Workload if each is not Workload.TRANSACTION])
async def test_sessions_are_alike_whatever_the_database_says(cluster: Cluster, workload: Workload) -> None:
    make_hostile(cluster.shards["a"])
    wanted = {**sessions.KEPT, **sessions.READ, "client_encoding": "UTF8", "lock_timeout": "0"}
    async with await Router.open(settings_of(cluster), workloads=set(Workload)) as router:
        assert await current(router.shard("a"), workload, *wanted) == tuple(wanted.values())
        (timeout,) = await current(router.shard("a"), workload, "statement_timeout")
        assert timeout not in ("0", "1ms")


async def test_how_a_handlers_statements_are_read_is_the_operators(cluster: Cluster) -> None:
    """But not what the promise needs."""
    make_hostile(cluster.shards["a"])
    names = ["search_path", "DateStyle", "client_encoding", *sessions.KEPT]
    async with await Router.open(settings_of(cluster), workloads=set(Workload)) as router:
        found = await current(router.shard("a"), Workload.TRANSACTION, *names)
    assert found == ("nowhere", "German, DMY", "UTF8", *sessions.KEPT.values())


async def test_the_connection_string_sets_timeouts_and_nothing_that_sessions_need(cluster: Cluster) -> None:
    own = "-c statement_timeout=7s -c lock_timeout=6s -c datestyle=German -c search_path=nowhere -c client_min_messages=error"
    shards = {name: make_conninfo(dsn, options=own, client_encoding="LATIN1") for name, dsn in cluster.shards.items()}
    names = ("statement_timeout", "lock_timeout", "DateStyle", "search_path", "client_min_messages", "client_encoding")
    async with await Router.open(settings_of(cluster, shards=shards), workloads={Workload.SUBMIT}) as router:
        assert await current(router.shard("a"), Workload.SUBMIT, *names) == (
            "7s", "6s", "ISO, MDY", "pg_catalog, pg_temp", "notice", "UTF8"
        )  # fmt: skip


@pytest.fixture
def hostile_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What libpq reads of it, beside where to connect."""
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=nowhere -c client_min_messages=error")


@pytest.fixture
def hostile_cluster(cluster: Cluster, hostile_environment: None) -> Cluster:
    for dsn in (cluster.catalogue_dsn, *cluster.shards.values()):
        make_hostile(dsn)
    return cluster


async def test_calls_go_their_way_whatever_the_database_says(
    hostile_cluster: Cluster, calls: Calls, workers: Workers, gateways: Gateways
) -> None:
    """From a text that the database's own encoding for clients does not have, to its answer."""
    payload = "Größe 日本".encode()
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)
    await workers.start()
    answer = await probe.Echo(EchoRequest(payload=payload), timeout=20, metadata=(("rowcall-tenant", "acme"),))
    assert answer.payload == payload
    job = await calls.submit("Echo", EchoRequest(payload=payload), call=Call(labels={"größe": "日本"}))
    row = await calls.done(job)
    assert row.labels == {"größe": "日本"}
    assert row.response is not None
    assert EchoResponse.FromString(row.response).payload == payload


@pytest.mark.parametrize("kind", ["catalogue", "shard"])
async def test_migrations_do_theirs_whatever_the_database_says(
    database: Callable[[], str], hostile_environment: None, kind: str
) -> None:
    dsn = database()
    make_hostile(dsn)
    limited = make_conninfo(dsn, options="-c statement_timeout=1ms -c lock_timeout=1ms")
    assert await migrate(limited, "catalogue" if kind == "catalogue" else "shard", shard="a")
    assert await migrate(limited, "catalogue" if kind == "catalogue" else "shard", shard="a") == []
    # As a service looks at it; and as anybody would whose session is like that.
    plain = make_conninfo(dsn, options="-c statement_timeout=0 -c idle_session_timeout=0")
    async with await psycopg.AsyncConnection.connect(plain, autocommit=True) as connection:
        await check_schema(connection, "catalogue" if kind == "catalogue" else "shard")
        if kind == "shard":
            cursor = await connection.execute(
                b"select count(*) from pg_inherits where inhparent = 'rowcall.job_history_long'::regclass"
            )
            assert await cursor.fetchone() == (16,)


async def start_gateway(gateways: Gateways, workers: Workers, settings: Mapping[str, Any]) -> Gateway:
    return await gateways.start(**settings)


async def start_worker(gateways: Gateways, workers: Workers, settings: Mapping[str, Any]) -> Worker:
    return await workers.start(**settings)


@pytest.mark.parametrize("start", [start_gateway, start_worker], ids=["gateway", "worker"])
async def test_a_service_does_not_start_where_acknowledged_calls_can_be_lost(
    cluster: Cluster, gateways: Gateways, workers: Workers, start: Callable[..., Awaitable[object]]
) -> None:
    make_hostile(cluster.shards["a"], LOWERED)
    with pytest.raises(
        SettingsError, match=r"shard 'a' has synchronous_commit = off for '.*lost by a crash of Postgres"
    ):
        await start(gateways, workers, {})
    with capture_logs() as logs:
        await start(gateways, workers, {"relaxed_durability": True})
    [line] = [line for line in logs if line["event"].startswith("acknowledged calls can be lost")]
    assert (line["log_level"], line["database"]) == ("warning", "shard 'a'")
    assert line["cause"] == "synchronous_commit = off: by a crash of Postgres"


async def test_a_session_that_is_set_to_lose_commits_later_does_not(cluster: Cluster) -> None:
    async with await Router.open(settings_of(cluster), workloads={Workload.SUBMIT, Workload.SETTLE}) as router:
        make_hostile(cluster.shards["a"], LOWERED)
        with psycopg.connect(cluster.shards["a"], autocommit=True) as admin, capture_logs() as logs:
            admin.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
            for workload in (Workload.SUBMIT, Workload.SETTLE):
                assert await current(router.shard("a"), workload, "synchronous_commit") == ("on",)
            assert any("durably all the same" in line["event"] for line in logs)
    async with await Router.open(settings_of(cluster, relaxed_durability=True), workloads={Workload.SUBMIT}) as router:
        assert await current(router.shard("a"), Workload.SUBMIT, "synchronous_commit") == ("off",)


async def test_a_limit_of_transactions_is_not_for_ours(cluster: Cluster) -> None:
    with psycopg.connect(cluster.shards["a"]) as connection:
        if connection.info.server_version < 170000:
            pytest.skip("transaction_timeout came with Postgres 17")
    make_hostile(cluster.shards["a"], {"transaction_timeout": "50ms"})
    async with await Router.open(settings_of(cluster), workloads={Workload.TRANSACTION}) as router:
        assert await current(router.shard("a"), Workload.TRANSACTION, "transaction_timeout") == ("0",)
    shards = {**cluster.shards, "a": make_conninfo(cluster.shards["a"], options="-c transaction_timeout=3s")}
    async with await Router.open(settings_of(cluster, shards=shards), workloads={Workload.TRANSACTION}) as router:
        assert await current(router.shard("a"), Workload.TRANSACTION, "transaction_timeout") == ("3s",)


async def test_submit_v1_depends_on_nothing_that_its_callers_session_is_set_to(cluster: Cluster) -> None:
    with psycopg.connect(cluster.shards["a"], autocommit=True) as session:
        session.execute("select rowcall.adopt_tenant('acme', 1)")
        session.execute(
            "select rowcall.publish_method(rowcall.method_id('a.B/C'), rowcall.policy_id(1, '1s', '1s', 1, '1s', 2::smallint,"
            " 1::smallint, null, '{}'), rowcall.queue_id('q'), 3::smallint, 'a.D', 'a.E')"
        )
        for name, value in HOSTILE.items():
            if "timeout" not in name:
                session.execute("select set_config(%s, %s, false)", [name, value])
        options = '{"run_at": "2031-05-04T13:30:00.5Z", "labels": {"a": "b"}}'
        job = session.execute("select rowcall.submit_v1('acme', 'a.B/C', '', null, %s)", [options]).fetchone()
        assert job is not None
        session.execute("set datestyle = iso; set timezone = utc")
        row = session.execute("select run_at::text from rowcall.job where job_id = %s", [job[0]]).fetchone()
        assert row == ("2031-05-04 13:30:00.5+00",)
