"""Sessions that live and are useless: they go, and the next is looked at before it is used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rowcall.settings import ClusterSettings
from rowcall.sharding import Pool
from rowcall.sharding.faults import shard_unavailable
from rowcall.sharding.pools import NoConnection, connection_string
from tests.fix_cluster import Cluster, RestartableCluster
from tests.fix_standby import ReplicatedCluster
from tests.support.waiting import until

pytestmark = pytest.mark.straight("a pooler chooses the server's sessions itself")

SIZE = 3
TAKES_NO_WRITES = "Shard 'a' takes no writes now: it is a standby, or was set to read only. Call again later."


def settings_of(cluster: Cluster) -> ClusterSettings:
    return ClusterSettings.model_validate({**cluster.settings, "pool_timeout": "1s"})


@asynccontextmanager
async def pooled(cluster: Cluster, dsn: str) -> AsyncIterator[Pool]:
    """A pool that is full."""
    settings = settings_of(cluster)
    pool = Pool(
        connection_string(dsn, settings, application="test"),
        settings,
        name="test",
        size=SIZE,
        unavailable=lambda why: shard_unavailable("a", why),
        ride_out=0,
    )
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def pids(pool: Pool) -> set[int]:
    """Of all sessions that the pool gives out at once."""
    async with AsyncExitStack() as stack:
        taken = [await stack.enter_async_context(pool.connection(10)) for _ in range(SIZE)]
        return {each.info.backend_pid for each in taken}


async def run(pool: Pool, statement: str) -> None:
    async with pool.connection() as connection:
        await connection.execute(statement.encode())


async def refusals(pool: Pool) -> list[str]:
    """What is said against five sessions, one after the other."""
    said = []
    for _ in range(5):
        try:
            await run(pool, "select 1")
        except NoConnection as error:
            said.append(error.message)
    return said


async def writes(pool: Pool) -> bool:
    """Whether a session that is taken can write."""
    try:
        await run(pool, "create temporary table if not exists one (id integer); insert into one values (1)")
    except NoConnection:
        return False
    return True


@pytest.fixture
def admin(cluster: Cluster) -> Iterator[psycopg.Connection]:
    with psycopg.connect(cluster.shards["a"], autocommit=True) as connection:
        yield connection


def set_read_only(admin: psycopg.Connection, setting: str) -> None:
    """For the sessions of the database that begin from now on; ends the others."""
    name = sql.Identifier(admin.info.dbname)
    admin.execute(sql.SQL("alter database {} " + setting).format(name))
    admin.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )


async def test_a_database_that_was_read_only_for_a_while_is_used_again_at_once(
    cluster: Cluster, admin: psycopg.Connection
) -> None:
    async with pooled(cluster, cluster.shards["a"]) as pool:
        assert await writes(pool)
        set_read_only(admin, "set default_transaction_read_only = on")
        # Not one session comes of it that would stay when it is over.
        assert await refusals(pool) == [TAKES_NO_WRITES] * 5
        admin.execute("set default_transaction_read_only = off")
        admin.execute(sql.SQL("alter database {} reset all").format(sql.Identifier(admin.info.dbname)))
        await until(lambda: writes(pool), seconds=5)


async def test_sessions_that_the_server_says_are_read_only_are_not_given_out(
    restartable_cluster: RestartableCluster,
) -> None:
    """Its configuration was changed under them; none of them has failed yet, and reads would go on."""
    cluster = restartable_cluster
    async with pooled(cluster, cluster.shards["a"]) as pool:
        before = await pids(pool)
        with psycopg.connect(cluster.shards["a"], autocommit=True) as admin:
            admin.execute("alter system set default_transaction_read_only = on")
            admin.execute("select pg_reload_conf()")

            async def refused() -> bool:
                try:
                    # It hears of it with the answer to the next statement.
                    await run(pool, "select 1")
                except NoConnection as error:
                    return "takes no writes now" in error.message
                return False

            await until(refused)
            admin.execute("set default_transaction_read_only = off")
            admin.execute("alter system reset default_transaction_read_only")
            admin.execute("select pg_reload_conf()")
        await until(lambda: writes(pool), seconds=5)
        assert not before & await pids(pool)


@pytest.mark.parametrize(
    "refused",
    [
        "begin read only; create table one (id integer)",
        "do $$ begin raise sqlstate '0A000' using message = 'cached plan must not change result type'; end $$",
    ],
    ids=["read only", "cached plan"],
)
async def test_what_all_sessions_of_a_pool_are_refused_for_ends_all_of_them(cluster: Cluster, refused: str) -> None:
    async with pooled(cluster, cluster.shards["a"]) as pool:
        before = await pids(pool)
        with pytest.raises(psycopg.Error):
            await run(pool, refused)
        assert not before & await pids(pool)
        # And no further ones for a session that was taken before that.
        after = await pids(pool)
        assert after == await pids(pool)


@pytest.mark.parametrize(
    "refused",
    ["select pg_read_file('x')", "execute nothing", "select nothing()"],
    ids=["right", "prepared", "function"],
)
async def test_a_session_that_lacks_what_a_statement_needs_is_not_given_back(cluster: Cluster, refused: str) -> None:
    """Its login was granted a role, or set to one, since it began; or somebody else has used it."""
    async with pooled(cluster, cluster.shards["a"]) as pool:
        before = await pids(pool)
        with pytest.raises(psycopg.Error):
            await run(pool, f"set role rowcall_reader; {refused}")
        assert len(before & await pids(pool)) == SIZE - 1


@pytest.mark.parametrize(
    "refused",
    [
        "select 1 / 0",
        "select 'x'::integer",
        "do $$ begin raise exception 'no'; end $$",
        "set statement_timeout = 1; select pg_sleep(1)",
    ],
    ids=["division", "text", "raised", "too long"],
)
async def test_a_session_stays_whose_statement_was_refused_for_what_it_says(cluster: Cluster, refused: str) -> None:
    async with pooled(cluster, cluster.shards["a"]) as pool:
        before = await pids(pool)
        with pytest.raises(psycopg.Error):
            await run(pool, refused)
        assert await pids(pool) == before


async def test_of_several_hosts_the_one_is_found_that_takes_writes(replicated_cluster: ReplicatedCluster) -> None:
    """And found again after a switch-over, without a word in the connection string."""
    cluster = replicated_cluster
    await cluster.followed()
    both = make_conninfo(
        cluster.shards["a"],
        host="127.0.0.1,127.0.0.1",
        port=f"{cluster.standby.server.port},{cluster.primary.server.port}",
        password=cluster.primary.server.password,
    )
    async with pooled(cluster, both) as pool:
        await until(lambda: writes(pool))
        cluster.primary.stop()
        await cluster.on_standby("select pg_promote()")
        await until(lambda: writes(pool), seconds=10)


async def test_a_standby_is_refused_where_the_connection_string_takes_any(
    replicated_cluster: ReplicatedCluster,
) -> None:
    cluster = replicated_cluster
    await cluster.followed()
    standby = make_conninfo(cluster.standby.dsn("a"), target_session_attrs="any")
    async with pooled(cluster, standby) as pool:
        assert await refusals(pool) == [TAKES_NO_WRITES] * 5
        cluster.primary.stop()
        await cluster.on_standby("select pg_promote()")
        await until(lambda: reads(pool), seconds=10)


async def reads(pool: Pool) -> bool:
    try:
        await run(pool, "select 1")
    except NoConnection:
        return False
    return True


def test_what_the_operator_says_of_servers_stands_and_poolers_are_not_asked(cluster: Cluster) -> None:
    settings = settings_of(cluster)

    def asked(dsn: str, settings: ClusterSettings = settings) -> object:
        return conninfo_to_dict(connection_string(dsn, settings, application="test")).get("target_session_attrs")

    assert asked(cluster.shards["a"]) == "read-write"
    assert asked(make_conninfo(cluster.shards["a"], target_session_attrs="primary")) == "primary"
    assert asked(cluster.shards["a"], settings.model_copy(update={"transaction_pooler": True})) is None
