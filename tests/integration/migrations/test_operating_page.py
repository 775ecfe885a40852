"""docs/operating.md and docs/postgres.md: the roles and grants that they tell operators to make are what services need, and no
more; also where there is no superuser, and where the login that migrates makes no roles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import grpc.aio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from rowcall.migrations import Target, migrate, roles_script
from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall_gateway.server import Gateway
from rowcall_gateway.settings import GatewaySettings
from rowcall_worker import Worker, WorkerSettings
from tests.fix_postgres import RestartablePostgres
from tests.support.places import ROOT

PASSWORD = "only-for-tests"


def statements(page: str = "docs/operating.md", title: str = "Databases and roles") -> Sequence[Sequence[str]]:
    """What is run before the first migration; by operating.md also what after it, and for a tenant's people."""
    section = (ROOT / page).read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    return [[each.strip() for each in text.replace("…", PASSWORD).split(";") if each.strip()] for text in blocks]


async def run(dsn: str, *texts: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for text in texts:
            await connection.execute(text.encode())


@pytest.fixture(params=["a superuser", "a managed server's administrator"])
async def administrator(request: pytest.FixtureRequest, restartable_postgres: RestartablePostgres) -> str:
    """Who makes logins and databases: its connection string."""
    superuser = restartable_postgres.dsn("postgres")
    if request.param == "a superuser":
        return superuser
    await run(superuser, "create role administrator login nosuperuser createrole createdb password 'only-for-tests'")
    return make_conninfo(superuser, user="administrator", password=PASSWORD)


@pytest.mark.straight("it makes roles on a server of its own")
async def test_an_administrator_makes_the_roles_where_the_login_that_migrates_makes_none(administrator: str) -> None:
    """docs/postgres.md, step by step."""
    [first] = statements("docs/postgres.md", "Managed servers")
    await run(administrator, *first)
    catalogue, shard = (
        make_conninfo(administrator, user="rowcall_migrator", dbname=name, password=PASSWORD)
        for name in ("rowcall_catalogue", "rowcall_a")
    )
    printed = roles_script([Target("catalogue", "catalogue", catalogue), Target("shard", "shard a", shard)])
    await run(administrator, printed)
    await migrate(catalogue, "catalogue")
    await migrate(shard, "shard", shard="a")
    logins = re.findall(
        r"^--   ((?:create role|grant) rowcall_\S+_login .*|grant \S+ to rowcall_\S+_login);$", printed, re.MULTILINE
    )
    assert len(logins) == 4
    await run(administrator, *(each.replace("…", PASSWORD) for each in logins))
    assert await answers(administrator, b"x") == b"x"


async def answers(administrator: str, payload: bytes) -> bytes:
    """What a call comes to, by a gateway and a worker with the logins of the pages."""

    def databases(user: str) -> dict[str, Any]:
        def dsn(database: str) -> str:
            return make_conninfo(administrator, user=user, dbname=database, password=PASSWORD)

        return {"catalogue": dsn("rowcall_catalogue"), "shards": {"a": dsn("rowcall_a")}}

    gateway = Gateway(GatewaySettings(listen="127.0.0.1:0", **databases("rowcall_gateway_login")))
    worker = Worker(WorkerSettings(**databases("rowcall_worker_login")))
    await gateway.start()
    await worker.start()
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        answer = await ProbeServiceStub(channel).Echo(
            EchoRequest(payload=payload), timeout=20, metadata=(("rowcall-tenant", "acme"),)
        )
    await worker.drain()
    await gateway.stop()
    return answer.payload


@pytest.mark.straight("it makes roles on a server of its own")
async def test_the_logins_of_the_page_do_what_the_page_says(administrator: str) -> None:
    before, after, readers = statements()

    def dsn(user: str, database: str) -> str:
        return make_conninfo(administrator, user=user, dbname=database, password=PASSWORD)

    await run(administrator, *before)
    await migrate(dsn("rowcall_migrator", "rowcall_catalogue"), "catalogue")
    await migrate(dsn("rowcall_migrator", "rowcall_a"), "shard", shard="a")
    await run(dsn("rowcall_migrator", "rowcall_a"), *after)
    await run(dsn("rowcall_migrator", "rowcall_a"), *readers)

    assert await answers(administrator, b"x") == b"x"

    async with await psycopg.AsyncConnection.connect(dsn("rowcall_person", "rowcall_a"), autocommit=True) as person:
        rows = await person.execute("select tenant, state, error_code, error_reason, attempts from rowcall.jobs")
        assert await rows.fetchall() == [("acme", "SUCCEEDED", None, None, None)]
    async with await psycopg.AsyncConnection.connect(dsn("acme_person", "rowcall_a"), autocommit=True) as person:
        rows = await person.execute("select tenant, state from rowcall.tenant_jobs")
        assert await rows.fetchall() == [("acme", "SUCCEEDED")]
    for user, database, text in (
        ("acme_person", "rowcall_a", "select from rowcall.jobs"),
        ("acme_person", "rowcall_a", "select rowcall.allow_reader('acme_person', 'bolt')"),
        ("rowcall_gateway_login", "rowcall_a", "select from rowcall.job"),
        ("rowcall_gateway_login", "rowcall_a", "select from rowcall.jobs"),
        ("rowcall_gateway_login", "rowcall_catalogue", "update rowcall_catalogue.tenant set shard = 'b'"),
        ("rowcall_worker_login", "rowcall_a", "select from rowcall.jobs"),
        ("rowcall_worker_login", "rowcall_catalogue", "insert into rowcall_catalogue.tenant values ('eve', 'a')"),
        ("rowcall_person", "rowcall_a", "select from rowcall.job"),
        ("rowcall_person", "rowcall_a", "select rowcall.adopt_tenant('eve', 1)"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await run(dsn(user, database), text)
    # Who was granted nothing does not even connect; nor does a tenant's person to the catalogue.
    await run(administrator, "create role stranger login password 'only-for-tests'")
    for user, database in (
        ("stranger", "rowcall_a"),
        ("stranger", "rowcall_catalogue"),
        ("acme_person", "rowcall_catalogue"),
    ):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            await run(dsn(user, database), "select 1")
