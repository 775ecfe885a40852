"""Fixtures: one Postgres for the whole run, databases of its own for each test, and a server that a test may break."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import psycopg
import pytest
from psycopg import sql

from rowcall import embedded
from rowcall.embedded import Postgres

_END_SECONDS: Final = 30.0


class Databases:
    """Makes and drops databases on the run's Postgres."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._connection = psycopg.connect(server.dsn("postgres"), autocommit=True)
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """Close the connection it works through."""
        self._connection.close()

    def dsn(self, name: str) -> str:
        """The connection string of a database."""
        return self._server.dsn(name)

    def create(self, kind: str, *, template: str = "template1") -> str:
        """A new database, a copy of the template; returns its name, which begins with `kind`."""
        name = f"{kind}_{next(self._numbers)}"
        # Copying the files of a migrated template takes 20 ms and dropping the copy 6 ms; by way of the write-ahead log,
        # Postgres's own default, it is 28 ms and 18 ms.
        self._connection.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


class RestartablePostgres:
    """A Postgres of the test's own, to stop, kill and start again: same data, same port, same connection strings."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._server = embedded.start(data_dir, durable=False)

    @property
    def server(self) -> Postgres:
        """The server as last started."""
        return self._server

    def dsn(self, name: str) -> str:
        """The connection string of a database; the same after a restart."""
        return self._server.dsn(name)

    def create_database(self, name: str) -> str:
        """Create an empty database unless it exists; returns its connection string."""
        self._server.create_database(name)
        return self.dsn(name)

    def stop(self) -> None:
        """Stop the server as an operator would."""
        self._server.stop()

    def kill(self) -> None:
        """Kill the postmaster without warning. No acknowledged commit is lost by it."""
        os.kill(self._server.pid, signal.SIGKILL)
        self._server.stop()  # it is dead: this gives the data directory up

    def start(self) -> None:
        """Start the server again after `stop` or `kill`."""
        self._server = embedded.start(self._data_dir, port=self._server.port, durable=False)


@pytest.fixture(scope="session")
def run_directory() -> Iterator[Path]:
    """For the servers of the run: removed at its end, where pytest would keep what it holds for three runs."""
    parent = _fast_place()
    for left in parent.glob("rowcall-tests-run-*"):
        if not psutil.pid_exists(int(left.name.split("-")[3])):  # that run was killed
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"rowcall-tests-run-{os.getpid()}-", dir=parent) as directory:
        yield Path(directory)


def _fast_place() -> Path:
    """In memory where that is ample (not in a container with the usual 64 MB), else where temporary files go.

    Making and dropping databases all the time is what ext4 is slowest at: it shuns the inodes of files deleted within
    the last seconds. Three migrated databases take it 400 ms, and 60 ms in memory.
    """
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30:
        return memory
    return Path(tempfile.gettempdir())


@pytest.fixture(scope="session")
def stopped_data_dir(run_directory: Path) -> Path:
    """An embedded Postgres as made by its first start, stopped; copied by `data_dir`."""
    embedded.start(run_directory / "stopped", durable=False).stop()
    return run_directory / "stopped"


@pytest.fixture
def data_dir(run_directory: Path, stopped_data_dir: Path) -> Iterator[Path]:
    """The data directory of an embedded Postgres of the test's own, not running. Copying it is a few times faster than
    making a new one."""
    with tempfile.TemporaryDirectory(dir=run_directory) as directory:
        copy = Path(directory) / "data"
        subprocess.run(["cp", "-a", stopped_data_dir, copy], check=True)  # shutil would not keep the owners
        yield copy
        await_end_in(copy)


def await_end_in(data_dir: Path) -> None:
    """Waits for the server of a data directory whose owner was killed: its guardian has told it to end, and while it writes the
    directory cannot be removed."""
    end = time.monotonic() + _END_SECONDS
    with suppress(FileNotFoundError, psutil.NoSuchProcess):
        # Removed when nothing is written any more.
        first, _, _ = (data_dir / "cluster" / "postmaster.pid").read_text().partition("\n")
        server = psutil.Process(int(first))
        while server.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, f"the server in {data_dir} goes on"
            time.sleep(0.01)


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """An empty directory that every account may enter."""
    with tempfile.TemporaryDirectory(prefix="rowcall-tests-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="session")
def postgres(run_directory: Path) -> Iterator[Postgres]:
    """The run's Postgres. Not to be stopped or restarted: see `restartable_postgres`."""
    with embedded.start(run_directory / "postgres", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: Postgres) -> Iterator[Databases]:
    """Makes databases for the fixtures below."""
    made = Databases(postgres)
    yield made
    made.close()


@pytest.fixture
def database(databases: Databases) -> Iterator[Callable[[], str]]:
    """Call it for a new, empty database, and get its connection string; dropped after the test."""
    names: list[str] = []

    def create() -> str:
        names.append(databases.create("empty"))
        return databases.dsn(names[-1])

    yield create
    for name in names:
        databases.drop(name)


@pytest.fixture
def restartable_postgres(data_dir: Path) -> Iterator[RestartablePostgres]:
    """A Postgres of the test's own, which it may stop, kill and start again."""
    restartable = RestartablePostgres(data_dir)
    yield restartable
    restartable.stop()
