"""What the benchmarks of other queues stand on: databases of their own, made anew, and a snapshot that really holds back."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.bench import peers
from tests.bench.held import holding, stream
from tests.bench.peers import Peer
from tests.bench.rivals import Installed
from tests.bench.stage import System
from tests.fix_cluster import Cluster
from tests.fix_services import Services


@pytest.fixture
def system(cluster: Cluster) -> Iterator[System]:
    """A benchmark's system, on the tests' databases: one shard, as a benchmark has."""
    one = replace(cluster, shards={"a": cluster.shards["a"]})
    with ExitStack() as stack:
        yield System(one, Services(one, stack), {})


@pytest.fixture
def name(system: System) -> Iterator[str]:
    """Of a database that no other test has."""
    made = f"peer_{uuid.uuid4().hex}"
    yield made
    system.do(f"drop database if exists {made} with (force)")


def rows(dsn: str, query: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.straight("looks at its own databases")
def test_a_database_is_made_once_and_anew_when_that_is_asked_for(system: System, name: str) -> None:
    dsn = system.database(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table kept ()")
    tables = "select count(*) from pg_tables where schemaname = 'public'"
    assert rows(system.database(name), tables) == 1
    # Whoever is still connected, such as a worker that is ending, does not hinder it.
    with psycopg.connect(dsn):
        assert rows(system.database(name, fresh=True), tables) == 0


DRIVER = """
import json, sys
import psycopg
action, dsn, count = sys.argv[1:]
with psycopg.connect(dsn, autocommit=True) as connection:
    if action == "prepare":
        connection.execute("create table job (payload int)")
    else:
        connection.execute("insert into job select * from generate_series(1, %s)", [int(count)])
print(json.dumps({"seconds": 2, "rows": int(count)}))
"""


@pytest.mark.straight("looks at its own databases")
async def test_a_peer_is_filled_in_a_new_database_and_has_statistics_behind_it(
    system: System, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_home", lambda _: tmp_path)
    driver = tmp_path / "drive.py"
    driver.write_text(DRIVER)
    each = Installed(Peer(name, lambda: [sys.executable, str(driver)], lambda: "1"), "1")
    for _ in range(2):
        dsn = await each.empty(system)
        assert await each.filled(dsn, 500) == 250
        assert rows(dsn, "select count(*) from job") == 500
        assert rows(dsn, "select reltuples from pg_class where relname = 'job'") == 500


@pytest.mark.straight("looks at its own databases")
def test_a_held_snapshot_keeps_dead_rows_until_it_is_let_go(system: System, name: str) -> None:
    dsn = system.database(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table job as select * from generate_series(1, 1000)")
        with holding(dsn):
            connection.execute("delete from job")
            connection.execute("vacuum job")
            assert connection.execute("select pg_relation_size('job') > 0").fetchone() == (True,)
        connection.execute("vacuum job")
        assert connection.execute("select pg_relation_size('job')").fetchone() == (0,)


async def test_a_stream_ends_when_all_that_was_taken_is_done(system: System) -> None:
    _, address = system.gateway()
    rate = await stream(system, address, 1, lambda _: nullcontext())
    assert rate > 0
    assert system.waiting() == 0
    assert system.finished() > 0
