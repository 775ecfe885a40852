"""rowcall.submit_v1: services in any language that share a shard submit in their own transactions.

As a login that may do nothing else, against a gateway that published its methods and a worker that runs the jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from rowcall.catalogue.images import load_catalogue
from rowcall.names import operation_name
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest
from tests.fix_gateway import Gateways, info_of, refused
from tests.fix_queue import Logins, PostgresQueue
from tests.fix_worker import Workers
from tests.polyglot.submitters import Answer, End, Order, Submitter, find_psql, install_node, node, psql, python
from tests.support.waiting import until

ECHO = "rowcall.probe.v1.ProbeService/Echo"
RUN = "rowcall.probe.v1.ProbeService/Run"
SHOP = ("rowcall-tenant", "shop")
NOW = ("prefer", "wait=0")
REQUEST = EchoRequest(payload=b"an order")
CANONICAL = REQUEST.SerializeToString(deterministic=True)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="session")
def node_folder(run_directory: Path) -> Path:
    return install_node(run_directory / "node")


@pytest.fixture(params=["psql", "node", "python"])
def submitter(request: pytest.FixtureRequest, run_directory: Path) -> Submitter:
    """Each way into the shard."""
    if request.param == "psql":
        return partial(psql, program=find_psql(run_directory))
    if request.param == "node":
        return partial(node, folder=request.getfixturevalue("node_folder"))
    return python


@pytest.fixture
def shop(logins: Logins) -> Iterator[psycopg.Connection[Any]]:
    """The shard's database as superuser; the service has a table of its own there."""
    with psycopg.connect(logins.admin, autocommit=True) as connection:
        connection.execute("create table orders (number text primary key)")
        connection.execute("grant select, insert on orders to test_submitter")
        yield connection


@pytest.fixture
async def probe(gateways: Gateways, shop: psycopg.Connection[Any]) -> probe_pb2_grpc.ProbeServiceAsyncStub:
    """Of a gateway that has placed the tenant shop on the shard and published its methods there."""
    gateway = await gateways.start(placement={"b": 0})
    stub = await gateways.probe(gateway)
    await stub.Run(RunRequest(), timeout=20, metadata=(SHOP, NOW, ("idempotency-key", "first")))
    await until(lambda: count(shop, "rowcall.method where policy_id is not null") == len(load_catalogue().methods))
    return stub


def count(shop: psycopg.Connection[Any], table: str) -> int:
    [(found,)] = shop.execute(f"select count(*) from {table}".encode()).fetchall()
    return int(found)


def order(logins: Logins, number: str, *, end: End = "commit", request: bytes = CANONICAL) -> Order:
    return Order(logins.submitter, number, ECHO, request, f"order {number}", end=end)


async def test_a_job_is_submitted_if_the_transaction_is_committed_and_not_otherwise(
    submitter: Submitter,
    probe: probe_pb2_grpc.ProbeServiceAsyncStub,
    workers: Workers,
    logins: Logins,
    shop: psycopg.Connection[Any],
) -> None:
    rolled_back = await submitter(order(logins, "1", end="rollback"))
    assert rolled_back.job is not None
    assert [count(shop, table) for table in ("orders", "rowcall.job", "rowcall.job_key")] == [0, 1, 1], "the first call"

    committed = await submitter(order(logins, "2"))

    assert committed.job is not None
    assert count(shop, "orders") == 1
    await workers.start()
    answer: EchoResponse = await probe.Echo(REQUEST, timeout=30, metadata=(SHOP, ("idempotency-key", "order 2")))
    assert answer.payload == b"an order"
    jobs = shop.execute("select name, state from rowcall.jobs where method = %s", [ECHO]).fetchall()
    assert jobs == [(operation_name("shop", UUID(committed.job)), "SUCCEEDED")], "the call joined the job"


@pytest.mark.hinted("only the wake could tell of the job in time")
@pytest.mark.usefixtures("probe")
async def test_a_wake_behind_the_commit_starts_it(
    submitter: Submitter,
    workers: Workers,
    logins: Logins,
    shop: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a worker that would not look by itself for a minute."""
    monkeypatch.setattr("rowcall_worker.claiming.claimer._FIRST_PAUSE", 60.0)
    monkeypatch.setattr("rowcall.queue.marks.FRONT_EVERY", 60.0)
    await workers.start(poll=timedelta(seconds=60))
    await until(lambda: count(shop, "rowcall.job") == 0)

    submitted = await submitter(order(logins, "1"))

    assert submitted.job is not None
    await until(lambda: count(shop, f"rowcall.job_history where job_id = '{submitted.job}'") == 1)


async def test_a_request_id_is_one_job_whoever_comes_first(
    submitter: Submitter, probe: probe_pb2_grpc.ProbeServiceAsyncStub, logins: Logins, shop: psycopg.Connection[Any]
) -> None:
    run = RunRequest(payload=b"an order")
    called = await probe.Run(run, timeout=20, metadata=(SHOP, NOW, ("idempotency-key", "order 1")))
    in_sql = Order(logins.submitter, "1", RUN, run.SerializeToString(deterministic=True), "order 1")

    joined = await submitter(in_sql)
    assert joined == Answer(called.name.rpartition("/")[2])

    submitted = await submitter(Order(logins.submitter, "2", RUN, in_sql.request, "order 2"))
    again = await probe.Run(run, timeout=20, metadata=(SHOP, NOW, ("idempotency-key", "order 2")))
    assert again.name == f"tenants/shop/operations/{submitted.job}"
    assert count(shop, "rowcall.job") == 3, "with the first"


async def test_a_request_id_with_another_request_is_refused_and_takes_the_transaction_along(
    submitter: Submitter, probe: probe_pb2_grpc.ProbeServiceAsyncStub, logins: Logins, shop: psycopg.Connection[Any]
) -> None:
    first = await submitter(order(logins, "1"))
    other = Order(logins.submitter, "2", ECHO, b"\n\x01x", "order 1")

    refusal = await submitter(other)

    assert refusal.sqlstate == "23505"
    assert f"the request id 'order 1' names job {first.job} with another request" in refusal.message
    assert count(shop, "orders") == 1
    metadata = (SHOP, NOW, ("idempotency-key", "order 1"))
    error = await refused(probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=metadata))
    assert info_of(error).reason == "IDEMPOTENCY_KEY_REUSED"


# What follows needs no gateway: the methods are published and the tenant is placed by hand.


@pytest.fixture
async def service(queue: PostgresQueue, logins: Logins) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """The service's connection, in autocommit mode, to a shard that has acme and knows the probe's methods."""
    for method in load_catalogue().methods.values():
        await queue.store.publish(method)
    async with await psycopg.AsyncConnection.connect(
        logins.submitter, autocommit=True, prepare_threshold=logins.access.prepare_threshold
    ) as connection:
        yield connection


async def submit(connection: psycopg.AsyncConnection[Any], request_id: str | None = None, **options: Any) -> UUID:
    cursor = await connection.execute(
        "select rowcall.submit_v1('acme', %s, %s, %s, %s)", [ECHO, CANONICAL, request_id, Jsonb(options)]
    )
    row = await cursor.fetchone()
    assert row is not None
    found: UUID = row[0]
    return found


async def submit_bytes(connection: psycopg.AsyncConnection[Any], request: bytes) -> UUID:
    cursor = await connection.execute("select rowcall.submit_v1('acme', %s, %s, 'k')", [ECHO, request])
    [(found,)] = await cursor.fetchall()
    assert isinstance(found, UUID)
    return found


REFUSALS: list[tuple[str, str, str]] = [
    ("'Acme', M, R", "22023", "'Acme' is no tenant"),
    ("null, M, R", "22023", "null is no tenant"),
    ("'acme-', M, R", "22023", "'acme-' is no tenant"),
    (f"'{'x' * 64}', M, R", "22023", "is no tenant"),
    ("'elsewhere', M, R", "23503", "the tenant 'elsewhere' does not live on this shard"),
    ("'acme', 'acme.v1.Shop/Buy', R", "42704", "no gateway has published the method 'acme.v1.Shop/Buy'"),
    ("'acme', 'acme.v1.PrintService/Print', R", "42704", "no gateway has published"),
    ("'acme', null, R", "42704", "no gateway has published the method null"),
    ("'acme', M, null", "22004", "the request is null"),
    ("'acme', M, decode(repeat('00', 1048577), 'hex')", "54000", "the request has 1048577 bytes; 1048576 are possible"),
    ("'acme', M, R, ''", "22023", "a request id has 1 to 255 printable ASCII characters"),
    ("'acme', M, R, repeat('x', 256)", "22023", "a request id has 1 to 255"),
    ("'acme', M, R, 'ö'", "22023", "a request id has 1 to 255"),
    ("'acme', M, R, E'a\\nb'", "22023", "a request id has 1 to 255"),
    ("'acme', M, R, null, '[]'", "22023", "the options are a JSON array, not an object"),
    ("'acme', M, R, null, 'null'", "22023", "the options are a JSON null, not an object"),
    ("""'acme', M, R, null, '{"runat": "x"}'""", "22023", "the option 'runat' is unknown or not of its type"),
    ("""'acme', M, R, null, '{"priority": 1}'""", "22023", "the option 'priority' is unknown or not of its type"),
    ("""'acme', M, R, null, '{"actor": null}'""", "22023", "the option 'actor' is unknown or not of its type"),
    ("""'acme', M, R, null, '{"labels": []}'""", "22023", "the option 'labels' is unknown or not of its type"),
    ("""'acme', M, R, null, '{"priority": "normal"}'""", "22023", "'normal' is no priority"),
    ("""'acme', M, R, null, '{"run_at": "tomorrow"}'""", "22023", "run_at 'tomorrow' is no time with its zone"),
    ("""'acme', M, R, null, '{"run_at": "infinity"}'""", "22023", "run_at 'infinity' is no time with its zone"),
    ("""'acme', M, R, null, '{"run_at": "2031-05-04T13:30:00"}'""", "22023", "is no time with its zone"),
    ("""'acme', M, R, null, '{"run_at": "2031-06-31T13:30:00Z"}'""", "22023", "is no time from 1970 to 9998"),
    ("""'acme', M, R, null, '{"run_at": "2031-05-04T13:30:00+99:00"}'""", "22023", "is no time from 1970 to 9998"),
    ("""'acme', M, R, null, '{"run_at": "1969-12-31T23:59:59Z"}'""", "22023", "is no time from 1970 to 9998"),
    ("""'acme', M, R, null, '{"labels": {"Team": "x"}}'""", "22023", "the label 'Team' is none"),
    ("""'acme', M, R, null, '{"labels": {"team": 1}}'""", "22023", "the label 'team' is none"),
    (
        "'acme', M, R, null, (select jsonb_build_object('labels', jsonb_object_agg(g, '')) from generate_series(1, 17) g)",
        "22023",
        "is none, or one too many",
    ),
    (
        "'acme', M, R, null, jsonb_build_object('labels', jsonb_build_object('l', repeat('x', 256)))",
        "22023",
        "the label 'l'",
    ),
    ("""'acme', M, R, null, '{"actor": ""}'""", "22023", "the actor has 0 characters"),
    ("""'acme', M, R, null, '{"traceparent": "00-0-0-0"}'""", "22023", "none of W3C Trace Context"),
    (
        f"""'acme', M, R, null, '{{"traceparent": "00-{"0" * 32}-b7ad6b7169203331-01"}}'""",
        "22023",
        "none of W3C Trace Context",
    ),
    ("'acme', M, R, null, jsonb_build_object('tracestate', repeat('x', 513))", "22023", "none of W3C Trace Context"),
]


async def test_what_is_wrong_is_refused_with_what_is_wrong(
    service: psycopg.AsyncConnection[Any], queue: PostgresQueue
) -> None:
    for arguments, sqlstate, message in REFUSALS:
        call = arguments.replace(", M", f", '{ECHO}'").replace(", R", ", '\\x'")
        with pytest.raises(psycopg.Error) as error:
            await service.execute(f"select rowcall.submit_v1({call})".encode())

        assert error.value.sqlstate == sqlstate, (arguments, error.value)
        assert str(error.value).startswith("submit_v1: ")
        assert message in str(error.value)
    assert await queue.value("select count(*) from rowcall.job") == 0


async def test_options_are_in_the_row(service: psycopg.AsyncConnection[Any], queue: PostgresQueue) -> None:
    job_id = await submit(
        service,
        "k",
        run_at="2041-05-04T15:30:00.5+02:00",
        priority="URGENT",
        labels={"team": "clocks"},
        actor="ada",
        traceparent=TRACEPARENT,
        tracestate="a=b",
    )

    [row] = (await queue.store.read([("acme", job_id)], request=True)).values()
    assert row.run_at == datetime(2041, 5, 4, 13, 30, 0, 500000, tzinfo=UTC)
    assert (row.lane, row.labels, row.actor, row.traceparent) == (1, {"team": "clocks"}, "ada", TRACEPARENT)
    assert (row.request_id, row.method, row.queue, row.request) == ("k", ECHO, "probe", CANONICAL)
    assert job_id.version == 7
    minted = datetime.fromtimestamp((job_id.int >> 80) / 1000, UTC)
    assert abs(datetime.now(UTC) - minted) < timedelta(minutes=5)


async def test_without_options_the_methods_policy_counts(
    service: psycopg.AsyncConnection[Any], queue: PostgresQueue
) -> None:
    cursor = await service.execute("select rowcall.submit_v1('acme', %s, '')", [f"/{RUN}"])
    [(job_id,)] = await cursor.fetchall()

    [row] = (await queue.store.read([("acme", job_id)], request=True)).values()
    policy = load_catalogue().methods[RUN].policy
    assert (row.lane, row.max_attempts, row.request, row.request_id) == (
        policy.priority,
        policy.max_attempts,
        b"",
        None,
    )


async def test_a_tenant_that_is_being_moved_is_refused(
    service: psycopg.AsyncConnection[Any], queue: PostgresQueue
) -> None:
    await queue.probe.fence("acme")

    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await submit(service, "k")

    assert await queue.value("select count(*) from rowcall.job_key") == 0


async def test_a_repeat_is_counted_and_is_durable_as_of_a_call(
    service: psycopg.AsyncConnection[Any], queue: PostgresQueue
) -> None:
    """So that a caller who leaves does not take the job from one that repeated it here."""
    first, second = await submit(service, "k"), await submit(service, "k")

    assert first == second
    assert [job.job_id for job in await queue.probe.jobs()] == [first]
    assert await queue.value("select callers from rowcall.job_key") == 2
    assert await queue.value("select repeated_at is not null from rowcall.job_key")


async def test_a_key_that_has_expired_is_as_good_as_none(
    service: psycopg.AsyncConnection[Any], queue: PostgresQueue
) -> None:
    first = await submit(service, "k")
    await queue.probe.pass_time(timedelta(days=8))
    second = await submit_bytes(service, b"another")

    assert second != first
    assert [(key.request_id, key.job_id) for key in await queue.probe.keys()] == [("k", second)]
    assert await queue.value("select callers from rowcall.job_key") == 1
    assert await submit_bytes(service, b"another") == second


async def test_a_repeat_waits_for_the_transaction_that_has_the_key(
    service: psycopg.AsyncConnection[Any], queue: PostgresQueue, logins: Logins
) -> None:
    async with await psycopg.AsyncConnection.connect(logins.submitter) as other:
        first = await submit(other, "k")
        waiting = asyncio.ensure_future(submit(service, "k"))
        await queue.somebody_waits()
        assert not waiting.done()
        await other.commit()
        assert await waiting == first
    assert await queue.value("select count(*) from rowcall.job") == 1


async def test_the_role_may_submit_and_nothing_else(
    service: psycopg.AsyncConnection[Any], queue: PostgresQueue
) -> None:
    relations = await queue.admin.execute(
        """
        select c.oid::regclass::text, c.relkind
        from pg_class c
        where c.relnamespace = 'rowcall'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
        """
    )
    for name, kind in await relations.fetchall():
        for statement in ("select * from {}", "delete from {}")[: 2 if kind in "rp" else 1]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await service.execute(statement.format(name).encode())
    functions = await queue.admin.execute(
        """
        select p.oid::regprocedure::text, has_function_privilege('test_submitter', p.oid, 'execute')
        from pg_proc p
        where p.pronamespace = 'rowcall'::regnamespace
        """
    )
    assert [name.partition("(")[0] for name, may in await functions.fetchall() if may] == [
        "rowcall.submit_v1",
        "rowcall.wake_v1",
    ]
    for role in ("rowcall_owner", "rowcall_gateway", "rowcall_worker", "rowcall_auditor", "postgres"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await service.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    for made in (
        "create table rowcall.mine ()",
        "create function rowcall.mine() returns int language sql as 'select 1'",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await service.execute(made.encode())


async def test_names_in_a_session_do_not_reach_into_it(
    service: psycopg.AsyncConnection[Any], queue: PostgresQueue
) -> None:
    await queue.admin.execute(
        """
        create schema evil;
        grant usage on schema evil to public;
        create function evil.sha256(bytea) returns bytea language sql as 'select null::bytea';
        create function evil.statement_timestamp() returns timestamptz return timestamptz '2000-01-01'
        """
    )
    async with service.transaction():
        await service.execute("set local search_path = evil, pg_catalog")
        job_id = await submit(service, "k")
    [row] = (await queue.store.read([("acme", job_id)])).values()
    assert row.run_at > datetime(2020, 1, 1, tzinfo=UTC)
    assert await queue.value("select octet_length(fingerprint) from rowcall.job_key") == 17
