"""QueueService: the queues of all shards as operators see them, pauses that hold everywhere or say where not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2

from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.queue_service_pb2 import (
    GetQueueRequest,
    ListPausesRequest,
    ListPausesResponse,
    ListQueuesRequest,
    ListQueuesResponse,
    Pause,
    PauseQueueRequest,
    Queue,
    ResumeQueueRequest,
)
from rowcall.v1.queue_service_pb2_grpc import QueueServiceStub
from rowcall_gateway.shards.upkeep import Upkeep
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, info_of, refused, retry_delay_of, tenant, violations_of
from tests.fix_worker import Workers
from tests.support.gate import Gate
from tests.support.waiting import until

QUEUE = "probe"
NOW = ("prefer", "wait=0")


class Client:
    """A gateway's QueueService, and its probe to submit with."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = QueueServiceStub(channel)
        self.probe = ProbeServiceStub(channel)

    async def list(self) -> ListQueuesResponse:
        return await self.stub.ListQueues(ListQueuesRequest(), timeout=20)

    async def queue(self, name: str = QUEUE) -> Queue:
        return (await self.stub.GetQueue(GetQueueRequest(name=name), timeout=20)).queue

    async def pauses(self) -> ListPausesResponse:
        return await self.stub.ListPauses(ListPausesRequest(), timeout=20)

    async def pause(self, name: str = QUEUE, note: str = "", metadata: Metadata = ()) -> None:
        await self.stub.PauseQueue(PauseQueueRequest(name=name, note=note), timeout=20, metadata=metadata)

    async def resume(self, name: str = QUEUE) -> None:
        await self.stub.ResumeQueue(ResumeQueueRequest(name=name), timeout=20)

    async def run(self, name: str, *more: tuple[str, str]) -> str:
        return (await self.probe.Run(RunRequest(), timeout=20, metadata=tenant(name, NOW, *more))).name


@pytest.fixture
async def client(gateways: Gateways, cluster: Cluster) -> Client:
    """Of a gateway that places the tenant left on shard a and the tenant right on b."""
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("insert into rowcall_catalogue.tenant (tenant, shard) values ('left', 'a'), ('right', 'b')")
    return Client(await gateways.channel(await gateways.start()))


@pytest.fixture
async def gate(cluster: Cluster) -> AsyncIterator[Gate]:
    """On the way from a gateway to shard a."""
    async with Gate(cluster.gateway.shards["a"]) as opened:
        yield opened


def shard_rows(cluster: Cluster, query: str) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of each shard."""
    found = {}
    for name, dsn in cluster.shards.items():
        with psycopg.connect(dsn) as connection:
            found[name] = connection.execute(query.encode()).fetchall()
    return found


async def test_a_queue_is_told_of_over_all_shards(client: Client, bench: Bench) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    for name in ("left", "left", "right", "right", "right"):
        await client.run(name)
    await client.run("right", ("rowcall-run-at", "2041-05-04T13:30:00Z"))
    await bench.claim(2)

    queue = await client.queue()

    assert (queue.name, queue.ready, queue.running, queue.scheduled, queue.held) == (QUEUE, 3, 2, 1, 0)
    assert before < queue.oldest_ready_time.ToDatetime(tzinfo=UTC) < datetime.now(UTC) + timedelta(minutes=1)
    assert not queue.capped
    assert not queue.HasField("pause")
    listed = await client.list()
    assert list(listed.queues) == [queue]
    assert list(listed.unreachable_shards) == []


async def test_counts_stop_at_their_limit_and_say_so(client: Client, cluster: Cluster) -> None:
    await client.run("left")
    with psycopg.connect(cluster.shards["a"]) as connection:
        connection.execute(
            """
            insert into rowcall.job (
              tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, run_at, ready_at, request
            )
            select
              tenant, gen_random_uuid(), state, lane, priority, queue_id, order_key + g, method_id, policy_id, run_at,
              ready_at, request
            from rowcall.job, generate_series(1, 10500) g
            """
        )

    queue = await client.queue()

    assert (queue.ready, queue.capped) == (10_000, True)


async def test_a_paused_queue_takes_calls_and_runs_none_until_it_is_resumed(client: Client, workers: Workers) -> None:
    await client.pause(note="rebuild", metadata=(("rowcall-actor", "ada"),))
    await workers.start()
    calls = [
        client.probe.Echo(EchoRequest(payload=b"x"), timeout=30, metadata=tenant(name)) for name in ("left", "right")
    ]

    async def both_wait() -> bool:
        return (await client.queue()).ready == 2

    await until(both_wait)
    pause = (await client.queue()).pause
    assert (pause.actor, pause.note) == ("ada", "rebuild")
    assert not any(call.done() for call in calls)

    await client.resume()

    assert [(await call).payload for call in calls] == [b"x", b"x"]
    assert not (await client.queue()).HasField("pause")


async def test_pausing_twice_is_pausing_once(client: Client) -> None:
    await client.pause(note="first", metadata=(("rowcall-actor", "ada"),))
    [first] = (await client.pauses()).pauses
    await client.pause(note="second", metadata=(("rowcall-actor", "bob"),))

    assert list((await client.pauses()).pauses) == [first]
    assert (first.WhichOneof("paused"), first.queue) == ("queue", QUEUE)
    assert (first.info.note, first.info.actor) == ("first", "ada")
    await client.resume()
    await client.resume()
    assert list((await client.pauses()).pauses) == []


@pytest.mark.parametrize("name", ["nobody's", "nobody\0s"])
async def test_what_no_shard_knows_is_not_found(client: Client, name: str) -> None:
    for attempt in (
        client.pause(name),
        client.resume(name),
        client.stub.GetQueue(GetQueueRequest(name=name), timeout=20),
    ):
        error = await refused(attempt)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "NOT_KNOWN")
        assert info_of(error).metadata["name"] == name


async def test_requests_that_break_rules_are_refused_with_the_field(client: Client) -> None:
    for name in ("", "x" * 64):
        for attempt in (client.pause(name), client.resume(name)):
            assert set(violations_of(await refused(attempt))) == {"name"}
    assert set(violations_of(await refused(client.pause(note="x" * 1001)))) == {"note"}
    assert set(violations_of(await refused(client.pause(note="x\0")))) == {"note"}
    assert list((await client.pauses()).pauses) == []


async def test_a_shard_that_is_away_is_named_and_a_pause_says_where_it_holds(
    gateways: Gateways, cluster: Cluster, gate: Gate
) -> None:
    gateway = await gateways.start(
        shards={**cluster.gateway.shards, "a": gate.dsn}, connect_timeout="2s", pool_timeout="2s"
    )
    channel = await gateways.channel(gateway)
    client = Client(channel)
    await client.pause()
    await client.resume()
    await gate.shut()

    listed = await client.list()
    assert ([queue.name for queue in listed.queues], list(listed.unreachable_shards)) == ([QUEUE], ["a"])
    error = await refused(client.pause())
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAVAILABLE, "SHARD_UNAVAILABLE")
    assert "paused on shard b, and perhaps not on shard a" in str(error.details())
    assert info_of(error).metadata["shard"] == "a"
    assert retry_delay_of(error) is not None
    unsure = await refused(client.stub.GetQueue(GetQueueRequest(name="only-on-a"), timeout=20))
    assert info_of(unsure).reason == "SHARD_UNAVAILABLE", "the shard that is away may know it"
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    health = await check(health_pb2.HealthCheckRequest(service="rowcall.v1.QueueService"), timeout=20)
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    await gate.open()
    known: list[Pause] = []

    async def all_answer() -> bool:
        answer = await client.pauses()
        known[:] = answer.pauses
        return not answer.unreachable_shards

    await until(all_answer)
    assert [list(pause.missing_shards) for pause in known] == [["a"]]
    await client.pause()
    [pause] = (await client.pauses()).pauses
    assert list(pause.missing_shards) == []
    assert pause.info == known[0].info


_HAS_QUEUE = f"select name from rowcall.queue where name = '{QUEUE}'"


async def test_a_shard_that_hangs_costs_the_call_its_bound_and_no_more(
    gateways: Gateways, cluster: Cluster, gate: Gate
) -> None:
    gateway = await gateways.start(shards={**cluster.gateway.shards, "a": gate.dsn}, connect_timeout="2s")
    client = Client(await gateways.channel(gateway))
    # The methods, and so their queues, are published after the start, on each shard by itself.
    await until(lambda: all(shard_rows(cluster, _HAS_QUEUE).values()))
    await client.list()
    gate.freeze()

    listed = await client.stub.ListQueues(ListQueuesRequest(), timeout=2)

    assert ([queue.name for queue in listed.queues], list(listed.unreachable_shards)) == ([QUEUE], ["a"])


async def test_a_pause_holds_on_a_shard_that_has_not_heard_of_the_queue_yet(
    gateways: Gateways, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Upkeep, "start", lambda self: None)  # the methods are published late
    client = Client(await gateways.channel(await gateways.start()))
    await client.pause()

    paused = shard_rows(cluster, "select name from rowcall.queue where paused_at is not null")
    assert paused == {"a": [(QUEUE,)], "b": [(QUEUE,)]}
