"""Fixtures: how the services of a test reach their databases, which is an option of the run.

Straight by default; with `--pgbouncer PROGRAM` through a PgBouncer in transaction mode of the run's own, while what the
tests do as superuser goes straight; with `--no-hints` straight and without NOTIFY. Used by the fixtures that hand
connection strings to gateways, workers and queues (`Cluster.settings`).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from rowcall.embedded import Postgres, guardian
from rowcall.embedded import account as accounts
from tests.support.ports import free_port

LOGINS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "test_gateway": ["rowcall_gateway"],
        "test_worker": ["rowcall_worker"],
        "test_services": ["rowcall_gateway", "rowcall_worker"],
        "test_submitter": ["rowcall_submitter"],
        "test_servicer": ["rowcall_servicer"],
        "test_reader": ["rowcall_reader"],
        "test_auditor": ["rowcall_auditor"],
        "test_acme": ["rowcall_tenant_reader"],
        "test_bolt": ["rowcall_tenant_reader"],
        "test_nobody": [],
    }
)
"""Login roles of the run's server, beside the superuser, and the roles each is in. A pooler must know them beforehand."""
PASSWORD = "only-for-tests"
"""Of each of them."""

_MAKE_LOGIN = """
do $$
begin
  if not exists (select from pg_roles where rolname = {name}) then
    create role {login} login password {password};
  end if;
end
$$
"""
_START_SECONDS = 20.0
_CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {directory}/users
pool_mode = transaction
max_client_conn = 2000
default_pool_size = 20
server_login_retry = 1
{more}
"""


@dataclass(frozen=True, slots=True)
class Access:
    """How services reach their databases."""

    settings: Mapping[str, bool | int] = field(default_factory=dict)
    """What services are told of it: fields of ClusterSettings."""
    port: int | None = None
    """The pooler's; None: straight."""
    prepares: bool = True
    """Whether connections can keep prepared statements."""

    def dsn(self, direct: str) -> str:
        """The way to a database whose own connection string this is."""
        return direct if self.port is None else make_conninfo(direct, port=self.port)

    @property
    def hints(self) -> bool:
        """Whether services use NOTIFY."""
        return not self.settings

    @property
    def prepare_threshold(self) -> int | None:
        """For connections that tests make themselves: psycopg's own default, or never."""
        return 5 if self.prepares else None


STRAIGHT = Access()
AccessTo = Callable[[Postgres], AbstractContextManager[Access]]


def make_logins(dsn: str) -> None:
    """Makes the login roles on a migrated server, unless they are there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        if connection.info.server_version >= 160000:
            # Stretching the password would cost each of thousands of connections 2.5 ms of a client's time.
            connection.execute("set scram_iterations = 1")
        for login, roles in LOGINS.items():
            made = sql.SQL(_MAKE_LOGIN).format(
                name=sql.Literal(login), login=sql.Identifier(login), password=sql.Literal(PASSWORD)
            )
            connection.execute(made)
            for role in roles:
                connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), sql.Identifier(login)))


@contextmanager
def pooler(program: Path, server: Postgres, directory: Path, *, prepares: bool) -> Iterator[int]:
    """A PgBouncer in transaction mode before a server, which may be restarted meanwhile; yields its port.

    Runs as the account that embedded servers run as: PgBouncer refuses root too.
    """
    account = accounts.choose(directory)
    port = free_port()
    more = "max_prepared_statements = 200" if prepares else ""
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(_CONFIGURATION.format(server=server.port, port=port, directory=directory, more=more))
    users = {"postgres": server.password, **dict.fromkeys(LOGINS, PASSWORD)}
    (directory / "users").write_text("".join(f'"{user}" "{password}"\n' for user, password in users.items()))
    for path in (directory, *directory.iterdir()):
        os.chown(path, account.uid, account.gid)
    log = directory / "log"
    with log.open("wb") as output:
        process = account.spawn([program, configuration], output=output)
    watch = guardian.watch(process.pid, account)
    try:
        _wait_until_it_listens(process, port, log)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        watch.release()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            code: int | None = process.wait(0.01)
        except subprocess.TimeoutExpired:
            code = None
        with socket.socket() as probe:
            if code is None and probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if code is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PgBouncer did not start (exit code {code}):\n{log.read_text()}")


@pytest.fixture(scope="session")
def access_to(request: pytest.FixtureRequest, run_directory: Path) -> AccessTo:
    """Makes the run's way to the databases of a server; it ends with the block."""
    program: Path | None = request.config.getoption("--pgbouncer")
    prepares: bool = request.config.getoption("--prepared")

    @contextmanager
    def pooled(server: Postgres) -> Iterator[Access]:
        assert program is not None
        # Beside the run's own directory, which is closed to other accounts.
        directory = Path(tempfile.mkdtemp(prefix=f"{run_directory.name}-pooler-", dir=run_directory.parent))
        try:
            with pooler(program, server, directory, prepares=prepares) as port:
                told: dict[str, bool | int] = {"transaction_pooler": True}
                if prepares:
                    told["prepare_threshold"] = 5
                yield Access(told, port, prepares)
        finally:
            shutil.rmtree(directory)

    if program is not None:
        return pooled
    access = Access({"hints": False}) if request.config.getoption("--no-hints") else STRAIGHT
    return lambda _server: nullcontext(access)


@pytest.fixture(scope="session")
def access(access_to: AccessTo, postgres: Postgres) -> Iterator[Access]:
    """The way to the databases on the run's Postgres."""
    with access_to(postgres) as found:
        yield found
