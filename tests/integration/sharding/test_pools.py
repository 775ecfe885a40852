"""Connections: bounded, named, with timeouts; and shards that are down, restart, or have no room."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from structlog.testing import capture_logs

from rowcall.errors import RowcallError
from rowcall.queue.postgres.faults import fault
from rowcall.settings import ClusterSettings, SettingsError
from rowcall.sharding import GATEWAY_WORKLOADS, WORKER_WORKLOADS, Pool, Router, Shard, Workload
from rowcall.sharding.faults import shard_unavailable
from rowcall.sharding.pools import NoConnection, connection_string
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.fix_cluster import Cluster, RestartableCluster
from tests.support.gate import Gate
from tests.support.waiting import until

NO_LOOK = "through a pooler nobody looks at the server before the start"


def settings_of(cluster: Cluster, **changed: Any) -> ClusterSettings:
    values = {**cluster.settings, "pool_timeout": "2s", **changed}
    return ClusterSettings.model_validate(values)


@asynccontextmanager
async def opened(cluster: Cluster, **changed: Any) -> AsyncIterator[Router]:
    router = await Router.open(settings_of(cluster, **changed), service="test", workloads=GATEWAY_WORKLOADS)
    async with router:
        yield router


async def ask(shard: Shard, query: str = "select 1", workload: Workload = Workload.READ) -> TupleRow:
    async with shard.pool(workload).connection() as connection:
        (row,) = await (await connection.execute(query.encode())).fetchall()
        return row


async def until_served(shard: Shard) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await ask(shard)
            except NoConnection:
                continue
            return


@pytest.mark.straight(NO_LOOK)
async def test_a_shard_that_is_down_at_the_start_stops_nobody_else(cluster: Cluster) -> None:
    async with Gate(cluster.service_shards["b"]) as gate:
        await gate.shut()
        with capture_logs() as logs:
            async with opened(cluster, shards={**cluster.service_shards, "b": gate.dsn}) as router:
                # The operator is told why, without the password.
                [line] = [line for line in logs if line["event"].startswith("database cannot be reached")]
                assert line["database"] == "shard 'b'"
                assert "refused" in line["cause"]
                assert str(psycopg.conninfo.conninfo_to_dict(gate.dsn)["password"]) not in str(logs)

                assert await ask(router.shard("a")) == (1,)
                with pytest.raises(RowcallError, match="Shard 'b' cannot be reached") as refusal:
                    await ask(router.shard("b"))
                assert refusal.value.reason == ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE
                assert refusal.value.metadata == {"shard": "b"}
                assert refusal.value.retry_after is not None

                await gate.open()
                await until_served(router.shard("b"))


@pytest.mark.straight(NO_LOOK)
@pytest.mark.parametrize("workloads", [GATEWAY_WORKLOADS, WORKER_WORKLOADS], ids=["gateway", "worker"])
async def test_a_login_that_is_refused_is_refused_at_the_start(
    cluster: Cluster, workloads: frozenset[Workload]
) -> None:
    nobody = make_conninfo(cluster.service_shards["a"], user="nobody", password="s3cret")
    nowhere = make_conninfo(cluster.service_shards["b"], dbname="nowhere")
    settings = settings_of(cluster, shards={"a": nobody, "b": nowhere})

    with pytest.raises(SettingsError) as error:
        await Router.open(settings, service="test", workloads=workloads)

    said = str(error.value)
    assert "ROWCALL_SHARDS (--shard a=…) does not open shard 'a'" in said
    assert 'authentication failed for user "nobody"' in said
    assert "ROWCALL_SHARDS (--shard b=…) does not open shard 'b'" in said
    assert 'database "nowhere" does not exist' in said
    assert "s3cret" not in said


async def test_a_login_that_is_refused_later_is_named_in_the_log(cluster: Cluster) -> None:
    nobody = make_conninfo(cluster.service_shards["a"], user="nobody", password="s3cret")
    # Behind a pooler there is no look at the server's limits, so that the pools are the first to connect.
    with capture_logs() as logs:
        async with opened(cluster, shards={"a": nobody}, transaction_pooler=True) as router:
            with pytest.raises(RowcallError, match="Shard 'a' cannot be reached"):
                await ask(router.shard("a"))

    lines = [line for line in logs if line["event"] == "database unreachable, trying on"]
    assert all("authentication failed" in line["cause"] for line in lines if line["pool"] != "catalogue")
    assert {"a read"} <= {line["pool"] for line in lines}
    assert "s3cret" not in str(logs)


async def test_a_restart_of_the_server_costs_no_call_an_error(restartable_cluster: RestartableCluster) -> None:
    async with opened(restartable_cluster) as router:
        shard = router.shard("a")

        async def hold(together: asyncio.Barrier) -> None:
            async with shard.pool(Workload.READ).connection() as connection:
                await connection.execute("select 1")
                await together.wait()

        # Fill the pool; then every connection in it is dead.
        together = asyncio.Barrier(4)
        await asyncio.gather(*(hold(together) for _ in range(4)))
        await asyncio.to_thread(restartable_cluster.postgres.stop)
        await asyncio.to_thread(restartable_cluster.postgres.start)
        # One caller that meets all the dead ones is not held up by their number.
        began = monotonic()
        assert await ask(shard) == (1,)
        assert monotonic() - began < 1
        assert await asyncio.gather(*(ask(shard) for _ in range(16))) == [(1,)] * 16


async def test_calls_wait_for_the_end_of_a_short_outage(cluster: Cluster) -> None:
    async with Gate(cluster.service_shards["a"]) as gate, opened(cluster, shards={"a": gate.dsn}) as router:
        await ask(router.shard("a"))
        await gate.shut()
        with capture_logs() as logs:
            call = asyncio.create_task(ask(router.shard("a")))
            # Some rounds of trying, half a second apart.
            await until(lambda: router.shard("a").pool(Workload.READ).get_stats().get("connections_errors", 0) > 6)
            await gate.open()
            assert await call == (1,)
            read = [line["log_level"] for line in logs if line["pool"] == "a read"]
            assert read == ["warning", "info"]  # said once each


@asynccontextmanager
async def small_pool(cluster: Cluster, dsn: str, *, ride_out: float = 0, **changed: Any) -> AsyncIterator[Pool]:
    settings = settings_of(cluster, **changed)
    pool = Pool(
        connection_string(dsn, settings, application="test"),
        settings,
        name="test",
        size=2,
        unavailable=lambda why: shard_unavailable("a", why),
        ride_out=ride_out,
    )
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


@contextmanager
def plain_role(cluster: Cluster, options: str = "") -> Iterator[Mapping[str, str]]:
    """A login role without rights: user and password."""
    with psycopg.connect(cluster.catalogue_dsn, autocommit=True) as admin:
        admin.execute(f"create role test_plain login password 'plain' {options}".encode())
        try:
            yield {"user": "test_plain", "password": "plain"}
        finally:
            admin.execute("drop role test_plain")


async def test_in_a_long_outage_calls_are_refused_at_once(cluster: Cluster) -> None:
    async with (
        Gate(cluster.service_shards["a"]) as gate,
        small_pool(cluster, gate.dsn, ride_out=0.2, pool_timeout="1m") as pool,
    ):
        await gate.shut()
        with pytest.raises(NoConnection):
            await pool.getconn()
        began = monotonic()
        with pytest.raises(NoConnection):
            await pool.getconn()
        assert monotonic() - began < 1
        # And it does not have to be asked to come back.
        await gate.open()
        await until(lambda: bool(pool.get_stats().get("pool_available")))


@pytest.mark.straight("the process id that a pooler gives is none of the server's")
async def test_a_connection_that_the_server_ended_is_not_handed_out(cluster: Cluster) -> None:
    async with small_pool(cluster, cluster.service_shards["a"]) as pool:
        async with pool.connection() as connection:
            pid = connection.info.backend_pid
        with psycopg.connect(cluster.shards["a"], autocommit=True) as admin:
            assert admin.execute("select pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)
        async with pool.connection() as connection:
            assert connection.info.backend_pid != pid
            await connection.execute("select 1")


async def test_a_pool_opens_no_more_than_its_size_and_then_refuses(cluster: Cluster) -> None:
    async with small_pool(cluster, cluster.service_shards["a"], pool_timeout="400ms") as pool:
        async with pool.connection(), pool.connection():
            with pytest.raises(NoConnection, match=r"gave no free connection within 0\.4 s") as refusal:
                await pool.getconn()
        assert refusal.value.reason == ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE
        # To the queue, which knows pools only, it is the same.
        assert fault(refusal.value, shard="a", writing=True).reason == ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE
        async with pool.connection() as connection:
            await connection.execute("select 1")


@pytest.mark.straight("a pooler takes any number of connections")
async def test_a_server_that_gives_no_more_connections_is_not_taken_for_one_that_is_away(cluster: Cluster) -> None:
    with plain_role(cluster, "connection limit 1") as login:
        dsn = psycopg.conninfo.make_conninfo(cluster.service_shards["a"], **login)
        async with small_pool(cluster, dsn, pool_timeout="1s") as pool, pool.connection() as connection:
            # The pool may have tried for a second one before the first was lent.
            for _ in range(2):
                with pytest.raises(NoConnection, match="gave no free connection"):
                    await pool.getconn()
            await connection.execute("select 1")


@pytest.mark.straight("it hears a notification on a pooled connection")
async def test_a_caller_that_goes_away_while_its_connection_is_checked_keeps_none(cluster: Cluster) -> None:
    async with Gate(cluster.service_shards["a"]) as gate, small_pool(cluster, gate.dsn, pool_timeout="1s") as pool:
        await pool.wait()  # for the first connection, so that nobody asks for a second
        async with pool.connection() as connection:
            await connection.execute("listen something")
        with psycopg.connect(cluster.shards["a"], autocommit=True) as admin:
            admin.execute("notify something")
        # With something to read on it, the connection's next user asks the server whether it still works.
        await until(lambda: bool(select.select([connection], [], [], 0)[0]))
        gate.freeze()
        caller = asyncio.create_task(pool.getconn())
        await until(lambda: pool.get_stats().get("pool_available") == 0)
        caller.cancel()
        await gate.open()
        with pytest.raises(asyncio.CancelledError):
            await caller
        async with pool.connection(), pool.connection():
            pass  # both of the pool's two are there to be had


async def test_a_closed_pool_refuses(cluster: Cluster) -> None:
    async with small_pool(cluster, cluster.service_shards["a"]) as pool:
        await pool.close()
        with pytest.raises(NoConnection, match="stopping"):
            await pool.getconn()


@pytest.mark.straight("no startup options are sent through a pooler")
async def test_sessions_are_named_and_end_by_themselves(cluster: Cluster) -> None:
    async with opened(cluster) as router:
        shard = router.shard("a")
        query = "select current_setting('application_name'), current_setting('statement_timeout')"
        assert await ask(shard, query, Workload.READ) == ("test read", "10s")
        assert await ask(shard, query, Workload.SUBMIT) == ("test submit", "10s")
        query = "select current_setting('idle_in_transaction_session_timeout')"
        assert await ask(shard, query) == ("5s",)
        listening = shard.connection_string("listen")
        async with await psycopg.AsyncConnection.connect(listening, autocommit=True) as connection:
            cursor = await connection.execute(
                "select current_setting('application_name'), current_setting('statement_timeout')"
            )
            assert await cursor.fetchone() == ("test listen", "0")


@pytest.mark.straight("PgBouncer refuses startup options")
async def test_what_the_operator_says_in_the_connection_string_stands(cluster: Cluster) -> None:
    dsn = psycopg.conninfo.make_conninfo(
        cluster.service_shards["a"], options="-c statement_timeout=1234", keepalives_idle=77
    )
    made = connection_string(dsn, settings_of(cluster), application="test")
    async with await psycopg.AsyncConnection.connect(made, autocommit=True) as connection:
        cursor = await connection.execute(
            "select current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
        )
        assert await cursor.fetchone() == ("1234ms", "5s")
    assert psycopg.conninfo.conninfo_to_dict(made)["keepalives_idle"] == "77"


async def test_a_worker_has_no_directory_and_a_gateway_no_claims(cluster: Cluster) -> None:
    async with opened(cluster) as gateway:
        with pytest.raises(LookupError, match="claim"):
            gateway.shard("a").pool(Workload.CLAIM)
    async with await Router.open(settings_of(cluster), workloads=WORKER_WORKLOADS) as worker:
        assert list(worker.shards) == ["a", "b"]
        assert await ask(worker.shard("a"), workload=Workload.CLAIM) == (1,)
        with pytest.raises(LookupError, match="read"):
            worker.route_cached("acme")


@pytest.fixture
def allowed(cluster: Cluster) -> int:
    """How many connections the server has for ordinary roles."""
    query = (
        "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int "
        "- coalesce(current_setting('reserved_connections', true)::int, 0)"
    )
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.straight(NO_LOOK)
async def test_pools_that_a_server_has_no_room_for_are_refused(cluster: Cluster, allowed: int) -> None:
    # Catalogue and both shards are on one server, reached by two names: 2 shards * (submit + read + dedicated) + catalogue.
    shards = {**cluster.shards, "b": cluster.shards["b"].replace("127.0.0.1", "localhost")}
    fitting = {"pool_submit": (allowed - 10) // 2 - 5, "pool_read": 1, "pool_catalogue": 10}
    total = 2 * (fitting["pool_submit"] + 1 + 4) + 10
    assert allowed - 2 < total <= allowed
    with capture_logs() as logs:
        router = await Router.open(
            settings_of(cluster, shards=shards, **fitting), workloads=GATEWAY_WORKLOADS, dedicated=4
        )
        await router.close()
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert (line["connections"], line["allowed"]) == (total, allowed)

    with pytest.raises(SettingsError) as refusal:
        await Router.open(
            settings_of(cluster, shards=shards, **fitting), service="gw", workloads=GATEWAY_WORKLOADS, dedicated=6
        )
    text = str(refusal.value)
    assert f"allow this process {total + 4} connections to a server that has {allowed}" in text
    assert f"shard 'a': {fitting['pool_submit'] + 7} (ROWCALL_POOL_SUBMIT {fitting['pool_submit']}" in text
    assert "ROWCALL_POOL_READ 1 + 6 dedicated" in text
    assert "the catalogue: 10 (ROWCALL_POOL_CATALOGUE 10)" in text
    assert "Lower them" in text

    with pytest.raises(SettingsError) as refusal:
        await Router.open(
            settings_of(cluster, shards=shards, activity=True, **fitting), workloads=GATEWAY_WORKLOADS, dedicated=5
        )
    text = str(refusal.value)
    assert f"allow this process {total + 4} connections" in text
    assert "5 dedicated + 1 for spans (ROWCALL_ACTIVITY)" in text

    with pytest.raises(SettingsError) as refusal:
        async with await Router.open(
            settings_of(cluster, shards=shards, **fitting),
            service="gw",
            workloads=GATEWAY_WORKLOADS,
            dedicated=4,
            processes=3,
        ):
            pass
    text = str(refusal.value)
    assert f"allow 3 processes {3 * total} connections to a server that has {allowed}" in text
    assert "each 3 times (ROWCALL_PROCESSES)" in text

    # A process that one of them starts at times needs room on every shard, but once.
    with pytest.raises(SettingsError) as refusal:
        async with await Router.open(
            settings_of(cluster, shards=shards, **fitting),
            service="gw",
            workloads=GATEWAY_WORKLOADS,
            dedicated=4,
            processes=3,
            beside=7,
        ):
            pass
    text = str(refusal.value)
    assert f"allow 3 processes {3 * total + 7 * len(shards)} connections to a server that has {allowed}" in text
    assert f"{7 * len(shards)} for a process that runs suspects" in text


async def test_a_modest_process_is_not_warned(cluster: Cluster) -> None:
    with capture_logs() as logs:
        async with opened(cluster):
            pass
    assert not logs


@pytest.mark.straight(NO_LOOK)
async def test_only_the_pools_that_are_opened_count(cluster: Cluster, allowed: int) -> None:
    settings = settings_of(cluster, pool_claim=allowed)
    async with await Router.open(settings, workloads=GATEWAY_WORKLOADS) as router:
        assert await ask(router.shard("a")) == (1,)
    with pytest.raises(SettingsError):
        await Router.open(settings, workloads=WORKER_WORKLOADS)


async def test_through_a_pooler_nothing_is_sent_that_it_refuses(cluster: Cluster, allowed: int) -> None:
    settings = settings_of(cluster, transaction_pooler=True, pool_read=allowed)
    made = psycopg.conninfo.conninfo_to_dict(
        connection_string(cluster.service_shards["a"], settings, application="test")
    )
    assert "options" not in made
    async with await Router.open(settings, workloads=GATEWAY_WORKLOADS) as router:
        pool = router.shard("a").pool(Workload.READ)
        async with pool.connection() as connection:
            for _ in range(10):
                await connection.execute("select %s::int", [1], prepare=True)
            cursor = await connection.execute("select count(*) from pg_prepared_statements")
            assert await cursor.fetchone() == (0,)


@pytest.mark.straight(NO_LOOK)
async def test_the_server_is_recognised_without_special_rights(cluster: Cluster, allowed: int) -> None:
    with plain_role(cluster) as login:
        shards = {name: psycopg.conninfo.make_conninfo(dsn, **login) for name, dsn in cluster.service_shards.items()}
        settings = settings_of(cluster, shards=shards, pool_read=allowed // 2)
        with pytest.raises(SettingsError, match="allow this process"):
            await Router.open(settings, workloads=GATEWAY_WORKLOADS)
