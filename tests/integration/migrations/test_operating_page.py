"""docs/operating.md: the roles and grants that it tells operators to make are what services need, and no more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import grpc.aio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from rowcall.migrations import migrate
from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall_gateway.server import Gateway
from rowcall_gateway.settings import GatewaySettings
from rowcall_worker import Worker, WorkerSettings
from tests.fix_postgres import RestartablePostgres
from tests.support.places import ROOT

PASSWORD = "only-for-tests"


def statements() -> Sequence[Sequence[str]]:
    """What is run before the first migration, what after it, and for a tenant's people."""
    page = (ROOT / "docs/operating.md").read_text()
    section = page.partition("## Databases and roles")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    return [[each.strip() for each in text.replace("…", PASSWORD).split(";") if each.strip()] for text in blocks]


async def run(dsn: str, *texts: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for text in texts:
            await connection.execute(text.encode())


@pytest.mark.straight("it makes roles on a server of its own")
async def test_the_logins_of_the_page_do_what_the_page_says(restartable_postgres: RestartablePostgres) -> None:
    admin = restartable_postgres.dsn("postgres")
    before, after, readers = statements()

    def dsn(user: str, database: str) -> str:
        return make_conninfo(admin, user=user, dbname=database, password=PASSWORD)

    await run(admin, *before)
    await migrate(dsn("rowcall_migrator", "rowcall_catalogue"), "catalogue")
    await migrate(dsn("rowcall_migrator", "rowcall_a"), "shard", shard="a")
    await run(dsn("rowcall_migrator", "rowcall_a"), *after)
    await run(dsn("rowcall_migrator", "rowcall_a"), *readers)

    def databases(user: str) -> dict[str, Any]:
        return {"catalogue": dsn(user, "rowcall_catalogue"), "shards": {"a": dsn(user, "rowcall_a")}}

    gateway = Gateway(GatewaySettings(listen="127.0.0.1:0", **databases("rowcall_gateway_login")))
    worker = Worker(WorkerSettings(**databases("rowcall_worker_login")))
    await gateway.start()
    await worker.start()
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        answer = await ProbeServiceStub(channel).Echo(
            EchoRequest(payload=b"x"), timeout=20, metadata=(("rowcall-tenant", "acme"),)
        )
    await worker.drain()
    await gateway.stop()
    assert answer.payload == b"x"

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
