"""The registry of the users' tables that handlers write: an operator's, and checked."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from tests.fix_queue import Logins, PostgresQueue

REGISTER = "select rowcall.register_tenant_table(%s, %s)"


async def test_a_table_is_registered_under_its_whole_name(queue: PostgresQueue) -> None:
    await queue.admin.execute('create schema "Shop"')
    await queue.admin.execute('create table "Shop".page (tenant text not null, owner varchar(63) not null)')
    assert await queue.value(REGISTER, '"Shop".page', "tenant") == '"Shop".page'
    assert await queue.value(REGISTER, '"Shop".page', "owner") == '"Shop".page'
    kept = await (await queue.admin.execute("select name, tenant_column from rowcall.tenant_table")).fetchall()
    assert kept == [('"Shop".page', "owner")]


@pytest.mark.parametrize(
    ("table", "column", "error", "message"),
    [
        ("public.missing", "tenant", errors.UndefinedTable, "There is no table public.missing here."),
        ("public.page", "missing", errors.UndefinedColumn, "The table public.page has no column missing."),
        ("public.page", "ctid", errors.UndefinedColumn, "has no column ctid"),
        ("public.page", "number", errors.DatatypeMismatch, "must be text, and not null"),
        ("public.page", "loose", errors.DatatypeMismatch, "must be text, and not null"),
        ("public.pages", "tenant", errors.WrongObjectType, "public.pages is no table of yours."),
        ("rowcall.job", "tenant", errors.WrongObjectType, "rowcall.job is no table of yours."),
    ],
)
async def test_what_cannot_be_moved_with_a_tenant_is_refused(
    queue: PostgresQueue, table: str, column: str, error: type[psycopg.Error], message: str
) -> None:
    await queue.admin.execute("create table public.page (tenant text not null, number int not null, loose text)")
    await queue.admin.execute("create view public.pages as select * from public.page")
    with pytest.raises(error) as caught:
        await queue.admin.execute(REGISTER, [table, column])
    assert message in str(caught.value)
    assert await queue.value("select count(*) from rowcall.tenant_table") == 0


async def test_services_cannot_register_tables(queue: PostgresQueue, logins: Logins) -> None:
    for dsn in (logins.gateway, logins.worker, logins.nobody):
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            with pytest.raises(errors.InsufficientPrivilege):
                await connection.execute(REGISTER, ["public.page", "tenant"])
