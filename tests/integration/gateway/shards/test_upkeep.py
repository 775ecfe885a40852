"""What a gateway does beside its calls: its methods are published on every shard, and turns are exchanged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, MutableMapping
from typing import Any

import psycopg
import pytest
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage

from rowcall.catalogue.images import load_catalogue
from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall.queue.model import ORDER_STRIDE
from rowcall.v1.job_service_pb2 import BatchSubmitRequest, JobSpec
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, job_id_of, keyed
from tests.support.gate import Gate
from tests.support.waiting import until

NOW = ("prefer", "wait=0")
PUBLISHED = """
select m.name, m.request_type, m.response_type, q.name, m.lane
from rowcall.method m
join rowcall.policy p on p.policy_id = m.policy_id
join rowcall.queue q on q.queue_id = m.queue_id
"""


@pytest.fixture
async def gate(cluster: Cluster) -> AsyncIterator[Gate]:
    """On the way from a gateway to shard a."""
    async with Gate(cluster.gateway.shards["a"]) as opened:
        yield opened


def published(cluster: Cluster, shard: str) -> set[tuple[Any, ...]]:
    with psycopg.connect(cluster.shards[shard]) as connection:
        return set(connection.execute(PUBLISHED).fetchall())


def types(cluster: Cluster, shard: str) -> dict[str, Any]:
    with psycopg.connect(cluster.shards[shard]) as connection:
        return dict(connection.execute("select name, fields from rowcall.message_type").fetchall())


EVERY_METHOD = {
    (method.name, method.request_type, method.response_type, method.policy.queue, int(method.policy.priority))
    for method in load_catalogue().methods.values()
}


def events(lines: Iterable[MutableMapping[str, Any]], part: str) -> list[str]:
    return [line["event"] for line in lines if part in line["event"]]


async def test_every_method_is_published_on_every_shard_though_nobody_calls(
    gateways: Gateways, cluster: Cluster
) -> None:
    await gateways.start()

    await until(lambda: published(cluster, "a") == published(cluster, "b") == EVERY_METHOD)


async def test_every_type_is_published_on_every_shard(gateways: Gateways, cluster: Cluster) -> None:
    """What its images and the gateway itself have: requests are compared by them."""
    gateway = await gateways.start()
    (every,) = load_catalogue().shapes()
    assert "google.protobuf.Struct" in every
    await until(lambda: every.items() <= types(cluster, "a").items() and every.items() <= types(cluster, "b").items())
    assert gateway.address


async def test_a_shard_that_is_away_at_the_start_gets_them_when_it_is_back(
    gateways: Gateways, cluster: Cluster, gate: Gate
) -> None:
    await gate.shut()
    with structlog.testing.capture_logs() as lines:
        gateway = await gateways.start(
            shards={**cluster.gateway.shards, "a": gate.dsn}, placement={"a": 0}, connect_timeout="2s"
        )
        # Nothing of this is in a call's way: the other shard is used meanwhile.
        probe = await gateways.probe(gateway)
        await probe.Run(RunRequest(), timeout=20, metadata=keyed("k", NOW))
        await until(lambda: published(cluster, "b") == EVERY_METHOD)
        await until(lambda: bool(events(lines, "methods cannot be published")))
        assert published(cluster, "a") == set()
        await gate.open()
        await until(lambda: published(cluster, "a") == EVERY_METHOD, seconds=40)
        # What is looked at at the start is looked at then.
        await until(lambda: {"a", "b"} == {line["shard"] for line in lines if "durability" in line})

    assert sorted(line["shard"] for line in lines if "durability" in line) == ["a", "b"]
    assert events(lines, "methods cannot be published") == ["methods cannot be published"]
    assert events(lines, "methods are published again") == ["methods are published again"]


async def test_what_would_have_been_refused_at_the_start_is_told_when_the_shard_is_back(
    gateways: Gateways, cluster: Cluster, gate: Gate
) -> None:
    await gate.shut()
    with structlog.testing.capture_logs() as lines:
        await gateways.start(shards={**cluster.gateway.shards, "a": gate.dsn}, placement={"a": 0}, connect_timeout="2s")
        with psycopg.connect(cluster.shards["a"]) as connection:
            connection.execute("alter function rowcall.find_lacks rename to find_lacks_away")
        await gate.open()
        event = "the shard would have been refused at the start"
        await until(lambda: bool(events(lines, event)), seconds=40)
    [line] = [line for line in lines if line["event"] == event]
    assert (line["shard"], line["log_level"]) == ("a", "error")
    assert "SCHEMA_MISMATCH" in line["error"]
    assert published(cluster, "a") == EVERY_METHOD


async def test_gateways_that_flood_for_one_tenant_hear_of_each_other(gateways: Gateways, cluster: Cluster) -> None:
    first, second = [JobServiceStub(await gateways.channel(await gateways.start())) for _ in range(2)]
    request = AnyMessage()
    request.Pack(RunRequest())

    async def flood(stub: Any, jobs: int) -> int:
        """Submits jobs; how many strides the last one is ahead."""
        specs = [JobSpec(method="rowcall.probe.v1.ProbeService/Run", request=request) for _ in range(jobs)]
        answer = await stub.BatchSubmit(BatchSubmitRequest(jobs=specs), timeout=20)
        ids = [job_id_of(result.operation.name) for result in answer.results]
        for dsn in cluster.shards.values():
            with psycopg.connect(dsn) as connection:
                query = "select max(order_key) from rowcall.job where job_id = any(%s)"
                [(key,)] = connection.execute(query, [ids]).fetchall()
                if key is not None:
                    return int(key) // ORDER_STRIDE
        raise AssertionError("the jobs are nowhere")

    assert await flood(second, 1) == 1
    ahead = await flood(first, 1000)
    assert ahead >= 1000
    keys: list[int] = []

    async def heard() -> bool:
        keys.append(await flood(second, 1))
        return keys[-1] > ahead

    await until(heard, every=0.1)
    assert len(keys) < 500, "it was told, and did not get there by itself"


async def test_a_failing_exchange_is_said_once_and_no_call_notices(gateways: Gateways, cluster: Cluster) -> None:
    def rename(old: str, new: str) -> None:
        for dsn in cluster.shards.values():
            with psycopg.connect(dsn) as connection:
                connection.execute(f"alter function rowcall.{old} rename to {new}".encode())

    turns = "select last_key from rowcall.turn"
    rename("exchange_turns", "elsewhere")
    with structlog.testing.capture_logs() as lines:
        probe = await gateways.probe(await gateways.start())
        for number in range(2):
            await probe.Run(RunRequest(), timeout=20, metadata=keyed(f"{number}", NOW))
        await until(lambda: bool(events(lines, "turns are not exchanged")))
        await probe.Run(RunRequest(), timeout=20, metadata=keyed("2", NOW))
        rename("elsewhere", "exchange_turns")
        await until(lambda: bool(events(lines, "turns are exchanged again")))

    assert len(events(lines, "turns are not exchanged")) == 1
    kept = []
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            kept += connection.execute(turns).fetchall()
    assert kept == [(3 * ORDER_STRIDE,)]


async def test_a_gateway_that_is_stopped_leaves_its_turns(gateways: Gateways, cluster: Cluster) -> None:
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)
    for number in range(5):
        await probe.Run(RunRequest(), timeout=20, metadata=keyed(f"{number}", NOW))
    await gateway.stop()

    kept = []
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            kept += connection.execute("select last_key from rowcall.turn").fetchall()
    assert kept == [(5 * ORDER_STRIDE,)]
