"""Fixtures: a cluster whose Postgres has a synchronous standby, both to be killed and started again by the test.

The standby begins as a copy of the stopped primary's files, so it follows from the first byte of log on.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from rowcall.embedded import Postgres
from tests.fix_cluster import CATALOGUE, SHARDS, Cluster
from tests.fix_postgres import RestartablePostgres
from tests.support.waiting import until

_NAME = "follower"


@dataclass(frozen=True, slots=True)
class ReplicatedCluster(Cluster):
    """A cluster on a primary that acknowledges no commit which its standby does not have."""

    primary: RestartablePostgres
    """The server that catalogue and shards are on."""
    standby: RestartablePostgres
    """Its one standby, which may be read."""

    async def followed(self) -> None:
        """Returns when the standby receives the primary's log, synchronously."""
        await until(lambda: self.on_primary("select count(*) = 1 from pg_stat_replication where sync_state = 'sync'"))

    async def commits_waiting(self, count: int = 1) -> None:
        """Returns when so many sessions of the primary wait for the standby with their commit."""
        waiting: LiteralString = "select count(*) = %s from pg_stat_activity where wait_event = 'SyncRep'"
        await until(lambda: self.on_primary(waiting, count))

    async def on_primary(self, query: LiteralString, *parameters: object) -> Any:
        """The first value of a query to shard "a", as superuser; in a transaction that waits for no standby."""
        return await _value(self.shards["a"], query, parameters)

    async def on_standby(self, query: LiteralString, *parameters: object) -> Any:
        """The first value of a query to what the standby has of shard "a"."""
        return await _value(self.standby.dsn("a"), query, parameters)


async def _value(dsn: str, query: LiteralString, parameters: tuple[object, ...]) -> Any:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("set synchronous_commit = local")
        row = await (await connection.execute(query, parameters)).fetchone()
    assert row is not None
    return row[0]


def _configure(data_dir: Path, *lines: str) -> None:
    # Not on the command line, which everybody may read: there is a password among them.
    with (data_dir / "cluster" / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _follow(data_dir: Path, primary: Postgres) -> None:
    """Makes the files of a stopped Postgres those of a standby."""
    told = psycopg.conninfo.make_conninfo(
        host="127.0.0.1",
        port=primary.port,
        user="postgres",
        password=primary.password,
        application_name=_NAME,
        sslmode="disable",
        gssencmode="disable",
    )
    _configure(
        data_dir, f"primary_conninfo = {_quoted(told)}", "hot_standby = on", "wal_retrieve_retry_interval = 100ms"
    )
    signal_file = data_dir / "cluster" / "standby.signal"
    subprocess.run(["cp", "-a", data_dir / "cluster" / "PG_VERSION", signal_file], check=True)  # with its owner


@pytest.fixture
def replicated_cluster(run_directory: Path, migrated_data_dir: Path) -> Iterator[ReplicatedCluster]:
    """A catalogue and two shards, empty, on a primary with a synchronous standby; both are the test's own."""
    with tempfile.TemporaryDirectory(dir=run_directory) as directory:
        first, second = Path(directory) / "primary", Path(directory) / "standby"
        for copy in (first, second):
            subprocess.run(["cp", "-a", migrated_data_dir, copy], check=True)
        _configure(first, f"synchronous_standby_names = {_NAME}", "synchronous_commit = on")
        primary = RestartablePostgres(first)
        try:
            _follow(second, primary.server)
            standby = RestartablePostgres(second)
            try:
                yield ReplicatedCluster(
                    primary.dsn(CATALOGUE), {shard: primary.dsn(shard) for shard in SHARDS}, primary, standby
                )
            finally:
                # First: a primary that stops waits for what its standby still has to get.
                standby.stop()
        finally:
            primary.stop()
