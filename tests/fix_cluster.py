"""Fixtures: a migrated catalogue and two migrated shards, for each test its own.

Migrations are applied once a run; tests get copies. `cluster` is on the run's Postgres, `restartable_cluster` on one of
the test's own, which it may stop, kill and start again.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from rowcall import embedded
from rowcall.embedded import Postgres
from rowcall.migrations import migrate
from tests.fix_pooler import PASSWORD, STRAIGHT, Access, AccessTo, make_logins
from tests.fix_postgres import Databases, RestartablePostgres

CATALOGUE = "catalogue"
SHARDS = ("a", "b")


@dataclass(frozen=True, slots=True)
class Reached:
    """A cluster's databases, as services of one login reach them."""

    catalogue: str
    """The catalogue's connection string."""
    shards: Mapping[str, str]
    """The shards' connection strings by name."""
    access: Access

    @property
    def settings(self) -> dict[str, Any]:
        """What a service is given: fields of ClusterSettings."""
        return {"catalogue": self.catalogue, "shards": dict(self.shards), **self.access.settings}

    @property
    def variables(self) -> dict[str, str]:
        """The same for a process: the environment."""
        return {
            f"ROWCALL_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in self.settings.items()
        }


@dataclass(frozen=True, slots=True)
class Cluster:
    """A migrated catalogue and its shards.

    Services log in with their own roles, and no more: gateways by `gateway`, workers by `worker`, and what is both, or
    either, by `service_catalogue`, `service_shards`, `settings` and `variables`.
    """

    catalogue_dsn: str
    """The catalogue's connection string, as superuser."""
    shards: Mapping[str, str]
    """Each shard's name and connection string, as superuser."""
    access: Access = field(default=STRAIGHT, kw_only=True)
    """How services reach them, where that is another way than a test's own."""

    @property
    def service_catalogue(self) -> str:
        """The catalogue's connection string, of a login with a gateway's and a worker's roles."""
        return self._both.catalogue

    @property
    def service_shards(self) -> dict[str, str]:
        """The shards' connection strings, of the same login."""
        return dict(self._both.shards)

    @property
    def settings(self) -> dict[str, Any]:
        """What a service with this login is given: fields of ClusterSettings."""
        return self._both.settings

    @property
    def variables(self) -> dict[str, str]:
        """The same for a process: the environment."""
        return self._both.variables

    @property
    def gateway(self) -> Reached:
        """The databases as gateways reach them."""
        return self.of("test_gateway")

    @property
    def worker(self) -> Reached:
        """The databases as workers reach them."""
        return self.of("test_worker")

    def of(self, user: str) -> Reached:
        """The databases as one of `LOGINS` reaches them, by the way that services go."""

        def dsn(direct: str) -> str:
            return make_conninfo(self.access.dsn(direct), user=user, password=PASSWORD)

        return Reached(dsn(self.catalogue_dsn), {name: dsn(each) for name, each in self.shards.items()}, self.access)

    @property
    def _both(self) -> Reached:
        return self.of("test_services")


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


@contextmanager
def durable_cluster(settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A catalogue and the shard "a" on a durable Postgres of their own on disk, for what is measured."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with embedded.start(Path(directory) / "postgres", settings=settings) as postgres:
            for name in (CATALOGUE, "a"):
                postgres.create_database(name)
            cluster = Cluster(postgres.dsn(CATALOGUE), {"a": postgres.dsn("a")})
            migrate_all(cluster.catalogue_dsn, cluster.shards)
            make_logins(cluster.catalogue_dsn)
            yield cluster


@pytest.fixture(scope="session")
def templates(postgres: Postgres, databases: Databases) -> Mapping[str, str]:
    """The databases to copy: the catalogue's name and each shard's, and the name of its migrated template."""
    names = {part: databases.create(f"template_{part}") for part in (CATALOGUE, *SHARDS)}
    migrate_all(postgres.dsn(names[CATALOGUE]), {shard: postgres.dsn(names[shard]) for shard in SHARDS})
    make_logins(postgres.dsn(names[CATALOGUE]))
    return names


@pytest.fixture
def first_shard(databases: Databases, templates: Mapping[str, str]) -> Iterator[str]:
    """The connection string of the shard "a" of the test's own, empty, as superuser; dropped after it. A test of one shard's
    queue needs no other database, and making one costs 25 ms."""
    name = databases.create("a", template=templates["a"])
    yield databases.dsn(name)
    databases.drop(name)


@pytest.fixture
def cluster(databases: Databases, templates: Mapping[str, str], access: Access, first_shard: str) -> Iterator[Cluster]:
    """A catalogue and two shards of the test's own, empty; dropped after it."""
    names = {part: databases.create(part, template=templates[part]) for part in (CATALOGUE, "b")}
    yield Cluster(databases.dsn(names[CATALOGUE]), {"a": first_shard, "b": databases.dsn(names["b"])}, access=access)
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
        make_logins(server.dsn(CATALOGUE))
    return directory


@pytest.fixture
def restartable_cluster(
    run_directory: Path, migrated_data_dir: Path, access_to: AccessTo
) -> Iterator[RestartableCluster]:
    """A catalogue and two shards, empty, on a Postgres of the test's own."""
    with tempfile.TemporaryDirectory(dir=run_directory) as directory:
        subprocess.run(["cp", "-a", migrated_data_dir, Path(directory) / "data"], check=True)
        server = RestartablePostgres(Path(directory) / "data")
        with ExitStack() as stack:
            stack.callback(server.stop)
            access = stack.enter_context(access_to(server.server))
            shards = {shard: server.dsn(shard) for shard in SHARDS}
            yield RestartableCluster(server.dsn(CATALOGUE), shards, server, access=access)
