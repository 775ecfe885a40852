"""What callers are told while databases fail, hang, are missing or have moved; and faults of the gateway's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import psycopg
import pytest
import structlog
from google.longrunning import operations_pb2_grpc
from google.longrunning.operations_pb2 import GetOperationRequest, WaitOperationRequest

from rowcall.catalogue.images import load_catalogue
from rowcall.errors import RowcallError, reason_name
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest
from rowcall.sharding.model import RouteState
from rowcall.v1.job_service_pb2 import BatchSubmitRequest
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall_gateway.calls.job_calls import JobCalls
from rowcall_gateway.server import Gateway
from rowcall_gateway.services.reading import JobReader
from rowcall_gateway.shards import upkeep
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, info_of, jobs, keyed, refused, tenant, trailer
from tests.fix_postgres import Databases
from tests.fix_worker import Workers
from tests.support.gate import Gate
from tests.support.moving import catalogue_routes, move, set_route
from tests.support.waiting import until

NOW = ("prefer", "wait=0")
SUBMIT = (b"submit_jobs", b"flying")
"""What is in a submit of this payload: the function's name where the session prepares it first, else the payload."""


@pytest.fixture
async def gate(cluster: Cluster) -> AsyncIterator[Gate]:
    """On the way from the gateway to shard a."""
    async with Gate(cluster.gateway.shards["a"]) as opened:
        yield opened


@pytest.fixture
async def gateway(gateways: Gateways, cluster: Cluster, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """One that reaches shard a through the gate, and places every tenant there."""
    # What comes round would keep the connection in a frozen gate that the test's call is to be sent on.
    monkeypatch.setattr(upkeep, "EXCHANGE_EVERY", 3600)
    monkeypatch.setattr(upkeep, "TELL_EVERY", 3600)
    return await gateways.start(
        shards={**cluster.gateway.shards, "a": gate.dsn}, placement={"b": 0}, connect_timeout="2s", pool_timeout="2s"
    )


@pytest.fixture
async def probe(gateways: Gateways, gateway: Gateway, cluster: Cluster) -> probe_pb2_grpc.ProbeServiceAsyncStub:
    """The gateway's probe, in use already: its tenant is placed, and a connection is open that nothing else wants."""
    stub = await gateways.probe(gateway)
    await stub.Run(RunRequest(payload=b"first"), timeout=20, metadata=keyed("first", NOW))

    catalogue = load_catalogue()
    types = sorted({name for shapes in catalogue.shapes() for name in shapes})

    def published() -> bool:
        with psycopg.connect(cluster.shards["a"]) as connection:
            found = connection.execute(
                "select count(request_type), (select count(*) from rowcall.message_type where name = any (%s))"
                " from rowcall.method",
                (types,),
            ).fetchone()
        return found == (len(catalogue.methods), len(types))

    await until(published)
    return stub


async def run(probe: probe_pb2_grpc.ProbeServiceAsyncStub, key: str) -> str:
    return (await probe.Run(RunRequest(), timeout=20, metadata=keyed(key, NOW))).name


async def test_a_shard_that_is_away_is_said_to_be_and_used_again_when_it_is_back(
    probe: probe_pb2_grpc.ProbeServiceAsyncStub, gate: Gate, cluster: Cluster
) -> None:
    await gate.shut()
    error = await refused(probe.Run(RunRequest(), timeout=20, metadata=keyed("k", NOW)))
    unkeyed = await refused(probe.Run(RunRequest(), timeout=20, metadata=(NOW,)))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(error).reason == "SHARD_UNAVAILABLE"
    assert info_of(error).metadata["shard"] == "a"
    assert "operation" not in info_of(error).metadata
    # gRPC may repeat the one that has a key, and must not repeat the other: it would be refused for want of a key.
    assert trailer(error, "grpc-retry-pushback-ms") != "-1"
    assert trailer(unkeyed, "grpc-retry-pushback-ms") == "-1"
    assert len(jobs(cluster, "name")) == 1

    await gate.open()

    async def works() -> bool:
        try:
            await run(probe, "k")
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(works)
    assert len(jobs(cluster, "name")) == 2


async def test_tenants_of_other_shards_do_not_notice(
    probe: probe_pb2_grpc.ProbeServiceAsyncStub, gateways: Gateways, gate: Gate, cluster: Cluster
) -> None:
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("insert into rowcall_catalogue.tenant (tenant, shard) values ('lucky', 'b')")
    await gate.shut()

    operation = await probe.Run(RunRequest(), timeout=20, metadata=tenant("lucky", NOW))

    assert operation.name.startswith("tenants/lucky/")


@pytest.mark.parametrize("with_key", [True, False])
async def test_a_commit_that_nobody_confirms_in_time_is_unknown(
    probe: probe_pb2_grpc.ProbeServiceAsyncStub, gate: Gate, cluster: Cluster, with_key: bool
) -> None:
    gate.freeze()
    metadata = keyed("k", NOW) if with_key else (NOW,)
    flying = asyncio.ensure_future(refused(probe.Run(RunRequest(payload=b"flying"), timeout=5, metadata=metadata)))
    await gate.holds(*SUBMIT)
    # Behind it in line, for the flusher writes one batch at a time: it is not on its way yet when its time is up.
    behind = await refused(probe.Run(RunRequest(), timeout=4, metadata=keyed("behind", NOW)))
    error = await flying

    # More time would not have helped it: nothing of it was written, and the shard is what is wrong.
    assert behind.code() is grpc.StatusCode.UNAVAILABLE
    assert (info_of(behind).reason, info_of(behind).metadata["shard"]) == ("SHARD_UNAVAILABLE", "a")
    assert "did not answer in time" in str(behind.details())
    assert "nothing was submitted" in str(behind.details())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(error).reason == "COMMIT_UNKNOWN"
    if with_key:
        # The key may be an older job's: the id that was minted would lead astray.
        assert "operation" not in info_of(error).metadata
        assert trailer(error, "grpc-retry-pushback-ms") is None
    else:
        assert trailer(error, "grpc-retry-pushback-ms") == "-1"

    await gate.open()
    if with_key:
        await until(lambda: len(jobs(cluster, "name")) == 2)
        joined = await probe.Run(RunRequest(payload=b"flying"), timeout=20, metadata=metadata)
        assert joined.name in {name for (name,) in jobs(cluster, "name")}
    else:
        name = info_of(error).metadata["operation"]
        await until(lambda: (name,) in jobs(cluster, "name"))
    assert ("behind",) not in jobs(cluster, "request_id")
    assert len(jobs(cluster, "name")) == 2


async def test_a_short_deadline_is_not_put_down_to_the_shard(
    probe: probe_pb2_grpc.ProbeServiceAsyncStub, gate: Gate
) -> None:
    gate.freeze()
    flying = asyncio.ensure_future(
        refused(probe.Run(RunRequest(payload=b"flying"), timeout=5, metadata=keyed("k", NOW)))
    )
    await gate.holds(*SUBMIT)
    behind = await refused(probe.Run(RunRequest(), timeout=0.4, metadata=keyed("behind", NOW)))

    assert behind.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info_of(behind).reason == "DEADLINE_TOO_SHORT"
    assert info_of(await flying).reason == "COMMIT_UNKNOWN"


async def test_a_frozen_shard_is_said_to_be_silent_where_it_owes_what_belongs_into_the_row(
    gateways: Gateways, gateway: Gateway, gate: Gate, cluster: Cluster
) -> None:
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("insert into rowcall_catalogue.tenant (tenant, shard) values ('default', 'a')")
    probe = await gateways.probe(gateway)
    gate.freeze()

    error = await refused(probe.Run(RunRequest(), timeout=2, metadata=keyed("k", NOW)))

    assert info_of(error).reason == "SHARD_UNAVAILABLE"
    assert "did not answer in time" in str(error.details())
    assert jobs(cluster, "name") == []
    await gate.open()


@pytest.mark.parametrize("with_key", [True, False])
async def test_a_connection_that_breaks_under_a_commit_leaves_it_unknown(
    probe: probe_pb2_grpc.ProbeServiceAsyncStub, gate: Gate, with_key: bool
) -> None:
    gate.freeze()
    metadata = keyed("k", NOW) if with_key else (NOW,)
    call = asyncio.ensure_future(refused(probe.Run(RunRequest(payload=b"flying"), timeout=20, metadata=metadata)))
    await gate.holds(*SUBMIT)
    with structlog.testing.capture_logs() as lines:
        await gate.shut()
        error = await call

    assert info_of(error).reason == "COMMIT_UNKNOWN"
    # The caller is not told of the database's own error; the log is.
    assert "OperationalError" not in str(error)
    (line,) = [line for line in lines if line["event"] == "call"]
    assert (line["reason"], line["exception"]) == ("COMMIT_UNKNOWN", "OperationalError")
    assert ("operation" in info_of(error).metadata) is not with_key
    assert trailer(error, "grpc-retry-pushback-ms") == (None if with_key else "-1")


@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize("with_keys", [True, False])
async def test_a_batch_that_nobody_confirms_in_time_is_unknown(
    gateways: Gateways,
    gateway: Gateway,
    gate: Gate,
    cluster: Cluster,
    with_keys: bool,
) -> None:
    stub = JobServiceStub(await gateways.channel(gateway))
    batch = BatchSubmitRequest()
    for key in "ab":
        spec = batch.jobs.add(method="rowcall.probe.v1.ProbeService/Run", request_id=key if with_keys else "")
        spec.request.Pack(RunRequest())
    gate.freeze()

    error = await refused(stub.BatchSubmit(batch, timeout=1))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(error).reason == "COMMIT_UNKNOWN"
    assert trailer(error, "grpc-retry-pushback-ms") == (None if with_keys else "-1")
    await gate.open()
    await until(lambda: len(jobs(cluster, "name")) == 3)


async def test_a_call_that_waits_rides_out_an_outage(
    probe: probe_pb2_grpc.ProbeServiceAsyncStub, gate: Gate, bench: Bench, cluster: Cluster
) -> None:
    call = asyncio.ensure_future(_echo(probe, keyed("k")))
    held = {each.job.request_id: each for each in await bench.claim(2)}["k"]
    await gate.shut()
    await bench.answer(held, EchoResponse(payload=b"x"))
    assert not call.done()

    await gate.open()

    assert (await call).payload == b"x"


async def _echo(probe: probe_pb2_grpc.ProbeServiceAsyncStub, metadata: tuple[tuple[str, str], ...]) -> EchoResponse:
    return await probe.Echo(EchoRequest(), timeout=30, metadata=metadata)


async def test_a_gateway_starts_while_the_catalogue_is_away(gateways: Gateways, cluster: Cluster) -> None:
    known = await gateways.probe(await gateways.start())
    name = await run(known, "k")
    async with Gate(cluster.gateway.catalogue) as catalogue:
        await catalogue.shut()

        probe = await gateways.probe(await gateways.start(catalogue=catalogue.dsn))

        # The shard itself says who lives there.
        assert await run(probe, "k") == name
        error = await refused(probe.Run(RunRequest(), timeout=20, metadata=tenant("new", NOW)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert info_of(error).reason == "CATALOGUE_UNAVAILABLE"


async def test_a_gateway_starts_while_a_shard_is_away(gateways: Gateways, cluster: Cluster) -> None:
    known = await gateways.probe(await gateways.start(placement={"a": 0}))
    name = await run(known, "k")
    async with Gate(cluster.gateway.shards["a"]) as shard:
        await shard.shut()

        probe = await gateways.probe(await gateways.start(shards={**cluster.gateway.shards, "a": shard.dsn}))

        assert await run(probe, "k") == name


async def test_a_stale_route_is_refused_refreshed_and_followed(gateways: Gateways, cluster: Cluster) -> None:
    probe = await gateways.probe(await gateways.start())
    await run(probe, "before")
    route = catalogue_routes(cluster)["default"]
    other = "b" if route.shard == "a" else "a"
    moved = move(cluster, route, other)

    await run(probe, "after")

    def keys(shard: str) -> list[str]:
        with psycopg.connect(cluster.shards[shard]) as connection:
            return [key for (key,) in connection.execute("select request_id from rowcall.jobs")]

    assert (keys(route.shard), keys(other)) == (["before"], ["after"])
    batch = await probe.Run(RunRequest(), timeout=20, metadata=keyed("again", NOW))
    assert batch.name
    assert moved.shard == other


async def test_a_tenant_that_is_being_moved_for_long_is_told_to_call_again(
    gateways: Gateways, cluster: Cluster
) -> None:
    probe = await gateways.probe(await gateways.start())
    await run(probe, "before")
    route = catalogue_routes(cluster)["default"]
    set_route(cluster, route.shard, "default", route.epoch, RouteState.FENCED)

    error = await refused(probe.Run(RunRequest(), timeout=20, metadata=keyed("k", NOW)))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(error).reason == "WRONG_SHARD"
    assert int(trailer(error, "grpc-retry-pushback-ms") or 0) > 0
    assert len(jobs(cluster, "name")) == 1


async def test_a_database_without_our_schema_is_refused_at_the_start(
    gateways: Gateways, cluster: Cluster, databases: Databases
) -> None:
    empty = databases.create("unmigrated")
    try:
        with pytest.raises(RowcallError, match="rowcall migrate") as error:
            await gateways.start(shards={**cluster.gateway.shards, "c": databases.dsn(empty)})
    finally:
        databases.drop(empty)
    assert reason_name(error.value.reason) == "SCHEMA_MISMATCH"


async def test_a_port_that_is_taken_is_refused_at_the_start(gateways: Gateways) -> None:
    """gRPC would share it in silence, and calls would go to whichever process the kernel likes."""
    first = await gateways.start()

    with pytest.raises(OSError, match="cannot listen on"):
        await gateways.start(listen=first.address)


async def test_a_fault_of_ours_is_an_envelope_without_its_inside(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object) -> bytes:
        raise LookupError("secret 4111-1111 of select * from rowcall.job")

    monkeypatch.setattr(JobCalls, "typed", broken)
    probe = await gateways.probe(await gateways.start())

    error = await refused(probe.Echo(EchoRequest(), timeout=20))

    assert error.code() is grpc.StatusCode.INTERNAL
    assert info_of(error).reason == "INTERNAL"
    assert "4111" not in str(error)
    assert "LookupError" not in str(error)


async def test_a_cancellation_of_our_own_making_does_not_leave_the_caller_without_an_answer(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc.aio sends nothing at all when a handler raises CancelledError by itself."""

    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    gateway = await gateways.start()
    operations = operations_pb2_grpc.OperationsStub(await gateways.channel(gateway))
    monkeypatch.setattr(JobReader, "place", cancelled)

    started = time.monotonic()
    error = await refused(operations.GetOperation(GetOperationRequest(name="tenants/default/operations/x"), timeout=20))

    assert info_of(error).reason == "INTERNAL"
    assert time.monotonic() - started < 10


async def test_waiting_is_no_reason_to_forget_a_row_that_was_deleted_meanwhile(
    gateways: Gateways, workers: Workers, bench: Bench, cluster: Cluster
) -> None:
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)
    operations = operations_pb2_grpc.OperationsStub(await gateways.channel(gateway))
    name = await run(probe, "k")
    wait = asyncio.ensure_future(refused(operations.WaitOperation(WaitOperationRequest(name=name), timeout=1.5)))
    await asyncio.wait({wait}, timeout=0.2)
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("delete from rowcall.job")

    error = await wait

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert info_of(error).reason == "JOB_NOT_FOUND"
