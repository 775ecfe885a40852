"""Fixtures: a migrated catalogue and two migrated shards, for each test its own.

Migrations are applied once a run; tests get copies. `cluster` is on the run's Postgres, `restartable_cluster` on one of
the test's own, which it may stop, kill and start again.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from rowcall import embedded
from rowcall.embedded import Postgres
from rowcall.migrations import migrate
from tests.fix_postgres import Databases, RestartablePostgres

CATALOGUE = "catalogue"
SHARDS = ("a", "b")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A migrated catalogue and its shards."""

    catalogue_dsn: str
    """The catalogue's connection string, as superuser."""
    shards: Mapping[str, str]
    """Each shard's name and connection string, as superuser."""


@dataclass(frozen=True, slots=True)
class RestartableCluster(Cluster):
    """A cluster whose Postgres the test may stop, kill and start again; the connection strings stay."""

    postgres: RestartablePostgres
    """The one server that catalogue and shards are on."""


def migrate_all(catalogue_dsn: str, shards: Mapping[str, str]) -> None:
    """Bring the databases to the current schema. Usable whether or not an event loop runs in this thread."""

    async def run() -> None:
        await migrate(catalogue_dsn, "catalogue")
        for name, dsn in shards.items():
            await migrate(dsn, "shard", shard=name)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


@pytest.fixture(scope="session")
def templates(postgres: Postgres, databases: Databases) -> Mapping[str, str]:
    """The databases to copy: the catalogue's name and each shard's, and the name of its migrated template."""
    names = {part: databases.create(f"template_{part}") for part in (CATALOGUE, *SHARDS)}
    migrate_all(postgres.dsn(names[CATALOGUE]), {shard: postgres.dsn(names[shard]) for shard in SHARDS})
    return names


@pytest.fixture
def cluster(databases: Databases, templates: Mapping[str, str]) -> Iterator[Cluster]:
    """A catalogue and two shards of the test's own, empty; dropped after it."""
    names = {part: databases.create(part, template=template) for part, template in templates.items()}
    yield Cluster(databases.dsn(names[CATALOGUE]), {shard: databases.dsn(names[shard]) for shard in SHARDS})
    for name in names.values():
        databases.drop(name)


@pytest.fixture(scope="session")
def migrated_data_dir(run_directory: Path, stopped_data_dir: Path) -> Path:
    """A stopped Postgres with a migrated catalogue and shards, under their plain names; copied by the next fixture."""
    directory = run_directory / "migrated"
    subprocess.run(["cp", "-a", stopped_data_dir, directory], check=True)
    with embedded.start(directory, durable=False) as server:
        for part in (CATALOGUE, *SHARDS):
            server.create_database(part)
        migrate_all(server.dsn(CATALOGUE), {shard: server.dsn(shard) for shard in SHARDS})
    return directory


@pytest.fixture
def restartable_cluster(run_directory: Path, migrated_data_dir: Path) -> Iterator[RestartableCluster]:
    """A catalogue and two shards, empty, on a Postgres of the test's own."""
    with tempfile.TemporaryDirectory(dir=run_directory) as directory:
        subprocess.run(["cp", "-a", migrated_data_dir, Path(directory) / "data"], check=True)
        server = RestartablePostgres(Path(directory) / "data")
        yield RestartableCluster(server.dsn(CATALOGUE), {shard: server.dsn(shard) for shard in SHARDS}, server)
        server.stop()
