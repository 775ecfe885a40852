"""Passwords of Postgres that are exchanged while services run: no call fails, and every kind of connection gets the new one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc.aio
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.security import passwords
from rowcall.settings import ClusterSettings, SettingsError
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from tests.fix_cluster import Cluster
from tests.fix_commands import Ran
from tests.fix_gateway import Gateways, tenant
from tests.fix_postgres import Databases
from tests.fix_services import Services
from tests.fix_worker import Workers
from tests.support.steady import KINDS, SECONDS, called, more_than, new_sessions
from tests.support.waiting import until

pytestmark = pytest.mark.straight("a pooler logs in with passwords of its own")

FIRST: Final = "geheim-1-4111"
SECOND: Final = "geheim-2-4111"

_numbers: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Login:
    """A login of the services' that the test gives passwords."""

    name: str
    cluster: Cluster
    file: Path
    """Where services find the password."""

    def execute(self, query: str, *parameters: object) -> list[Any]:
        """As superuser, on the first shard."""
        statement = sql.SQL(query).format(
            login=sql.Identifier(self.name), password=sql.Literal("".join(map(str, parameters)))
        )
        with psycopg.connect(self.cluster.shards["a"], autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description is not None else []

    def set_password(self, password: str) -> None:
        """On the server."""
        self.execute("alter role {login} password {password}", password)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Connection strings without a password."""

        def without(dsn: str) -> str:
            parts = {key: value for key, value in conninfo_to_dict(dsn).items() if key != "password"}
            return make_conninfo(**{**parts, "user": self.name, **changes})

        return {
            **self.cluster.settings,
            "catalogue": without(self.cluster.catalogue_dsn),
            "shards": {name: without(dsn) for name, dsn in self.cluster.shards.items()},
        }

    def write(self, content: str) -> None:
        """Exchanges what the file holds, for its owner alone."""
        self.file.write_text(content)
        self.file.chmod(0o600)

    def sessions(self) -> set[str]:
        """What its sessions are for: their names in pg_stat_activity."""
        name = sql.Literal(self.name).as_string()
        return {
            str(row[0]) for row in self.execute(f"select application_name from pg_stat_activity where usename = {name}")
        }

    def end_sessions(self) -> None:
        """As a restart of the server would."""
        name = sql.Literal(self.name).as_string()
        self.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = {name}")


@pytest.fixture
def login(cluster: Cluster, databases: Databases, tmp_path: Path) -> Iterator[Login]:
    """Of a gateway's and a worker's rights, with the first password on the server and in the file."""
    file = tmp_path / "password"
    file.write_text(f"{FIRST}\n")
    login = Login(f"test_password_{next(_numbers)}", cluster, file)
    login.execute("create role {login} login password {password} in role rowcall_gateway, rowcall_worker", FIRST)
    yield login
    login.end_sessions()
    login.execute("drop role {login}")


@pytest.mark.parametrize("kept_in", ["password file", "passfile"])
async def test_no_call_fails_while_the_password_is_exchanged(
    login: Login, gateways: Gateways, workers: Workers, capsys: pytest.CaptureFixture[str], kept_in: str
) -> None:
    """The file first, the server when all processes have it: what connects in between still gets in."""
    if kept_in == "password file":
        told: dict[str, Any] = {**login.settings(), "password_file": login.file}
    else:
        login.write(f"*:*:*:*:{FIRST}")
        told = login.settings(passfile=str(login.file))
    gateway = await gateways.start(**told)
    await workers.start(**told)

    async with called(gateway.address) as answered:
        if kept_in == "password file":
            login.write(SECOND)
            await new_sessions(gateway)
            await more_than(answered, 20)
            login.set_password(SECOND)
        else:
            # Of libpq's own there is no earlier one to try: both at once.
            login.set_password(SECOND)
            login.write(f"*:*:*:*:{SECOND}")
        await new_sessions(gateway)
        await more_than(answered, 20)

    said = "".join(capsys.readouterr())
    print(said)  # noqa: T201 - for whoever looks at why it failed
    assert ("takes the earlier password" in said) == (kept_in == "password file")
    assert [marker for marker in (FIRST, SECOND) if marker in said] == []


@pytest.mark.hinted("listeners are among them")
async def test_every_kind_of_connection_gets_the_new_password(
    login: Login, gateways: Gateways, workers: Workers
) -> None:
    """Pools, listeners and the lease: all of them are ended, and all of them come back."""
    told = {**login.settings(), "password_file": login.file}
    gateway = await gateways.start(**told)
    await workers.start(**told)
    probe = await gateways.probe(gateway)

    async def call() -> bool:
        try:
            await probe.Echo(EchoRequest(payload=b"x"), timeout=2, metadata=tenant("acme"))
        except grpc.aio.AioRpcError:
            return False
        return True

    async def all_are_there(when: str) -> None:
        async def serves() -> bool:
            return await call() and login.sessions() >= KINDS

        try:
            await until(serves, seconds=40, every=0.1)
        except TimeoutError:
            pytest.fail(f"{when} there is no {', '.join(sorted(KINDS - login.sessions()))}")

    await all_are_there("at first")
    login.write(SECOND)
    login.set_password(SECOND)
    login.end_sessions()

    await all_are_there("with the new password")


def settings_of(login: Login) -> ClusterSettings:
    return ClusterSettings(**login.settings(), password_file=login.file)


async def test_a_start_is_refused_with_what_is_wrong(login: Login) -> None:
    async def said() -> str:
        with pytest.raises(SettingsError) as refused:
            await Router.open(settings_of(login), service="test", workloads=GATEWAY_WORKLOADS)
        return str(refused.value)

    login.write(SECOND)
    assert f'password authentication failed for user "{login.name}"' in await said()
    settings = settings_of(login)
    login.write("")
    with pytest.raises(SettingsError, match=r"is empty; it must hold the password"):
        await Router.open(settings, service="test", workloads=GATEWAY_WORKLOADS)


def test_migrations_read_it_too(rowcall: Callable[..., Ran], login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    told = login.settings()
    variables = {"ROWCALL_CATALOGUE": told["catalogue"], "ROWCALL_SHARDS": json.dumps(told["shards"])}
    ran = rowcall("migrate", "--status", **variables, ROWCALL_PASSWORD_FILE=str(login.file))
    assert ran.code == 0, ran.err

    # Another command is another process, which knows no earlier one.
    monkeypatch.setattr(passwords, "_taken", {})
    login.write(SECOND)
    ran = rowcall("migrate", "--status", **variables, ROWCALL_PASSWORD_FILE=str(login.file))
    assert ran.code == 3
    assert "password authentication failed" in ran.err
    assert SECOND not in ran.err


def test_a_service_says_nothing_of_what_a_password_is(services: Services, login: Login) -> None:
    login.write(SECOND)
    told = login.settings()
    gateway = services.gateway(
        ROWCALL_CATALOGUE=told["catalogue"],
        ROWCALL_SHARDS=json.dumps(told["shards"]),
        ROWCALL_PASSWORD_FILE=str(login.file),
        ROWCALL_LOG_LEVEL="debug",
    )
    assert gateway.process.wait(SECONDS * 4) == 2
    gateway.all_gone()
    said = "".join(gateway.log)
    assert "password authentication failed" in said
    assert SECOND not in said
