"""CatalogueService: methods that operators pause, on every shard and in whichever queue."""

from __future__ import annotations

import grpc
import psycopg
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.catalogue_service_pb2 import PauseMethodRequest, ResumeMethodRequest
from rowcall.v1.catalogue_service_pb2_grpc import CatalogueServiceStub
from rowcall.v1.queue_service_pb2 import ListPausesRequest, Pause
from rowcall.v1.queue_service_pb2_grpc import QueueServiceStub
from rowcall_gateway.shards.upkeep import Upkeep
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, Metadata, info_of, refused, tenant, violations_of
from tests.fix_worker import Workers
from tests.support.gate import Gate

ECHO = "rowcall.probe.v1.ProbeService/Echo"
RUN = "rowcall.probe.v1.ProbeService/Run"
NOW = ("prefer", "wait=0")


class Client:
    """A gateway's CatalogueService, what it tells of pauses, and its probe to submit with."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub, self.queues, self.probe = (
            CatalogueServiceStub(channel),
            QueueServiceStub(channel),
            ProbeServiceStub(channel),
        )

    async def pause(self, name: str, note: str = "", metadata: Metadata = ()) -> None:
        await self.stub.PauseMethod(PauseMethodRequest(name=name, note=note), timeout=20, metadata=metadata)

    async def resume(self, name: str) -> None:
        await self.stub.ResumeMethod(ResumeMethodRequest(name=name), timeout=20)

    async def pauses(self) -> list[Pause]:
        return list((await self.queues.ListPauses(ListPausesRequest(), timeout=20)).pauses)


@pytest.fixture
async def client(gateways: Gateways) -> Client:
    return Client(await gateways.channel(await gateways.start()))


async def test_a_paused_method_leaves_the_others_of_its_queue(client: Client, workers: Workers) -> None:
    await client.pause(f"/{RUN}", "broken", (("rowcall-actor", "ada"),))
    await workers.start()
    held = await client.probe.Run(RunRequest(), timeout=20, metadata=tenant("left", NOW))
    answer: EchoResponse = await client.probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=tenant("left"))

    assert answer.payload == b"x"
    assert not held.done
    [pause] = await client.pauses()
    assert (pause.WhichOneof("paused"), pause.method, list(pause.missing_shards)) == ("method", RUN, [])
    assert (pause.info.actor, pause.info.note) == ("ada", "broken")
    await client.resume(RUN)
    await client.resume(RUN)
    assert await client.pauses() == []


@pytest.mark.parametrize("name", ["acme.v1.Shop/Buy", "probe", "acme.v1.Shop/Bu\0y"])
async def test_what_no_shard_knows_is_not_found(client: Client, name: str) -> None:
    """A queue's name is no method's."""
    for attempt in (client.pause(name), client.resume(name)):
        error = await refused(attempt)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "NOT_KNOWN")
        assert info_of(error).metadata["name"] == name


async def test_requests_that_break_rules_are_refused_with_the_field(client: Client) -> None:
    for name in ("", "x" * 256):
        for attempt in (client.pause(name), client.resume(name)):
            assert set(violations_of(await refused(attempt))) == {"name"}
    assert set(violations_of(await refused(client.pause(ECHO, "x" * 1001)))) == {"note"}
    assert set(violations_of(await refused(client.pause(ECHO, "x\0")))) == {"note"}
    assert await client.pauses() == []


async def test_a_pause_says_on_which_shards_it_holds(gateways: Gateways, cluster: Cluster) -> None:
    async with Gate(cluster.gateway.shards["a"]) as gate:
        gateway = await gateways.start(
            shards={**cluster.gateway.shards, "a": gate.dsn}, connect_timeout="2s", pool_timeout="2s"
        )
        client = Client(await gateways.channel(gateway))
        await client.pause(ECHO)
        await client.resume(ECHO)
        await gate.shut()
        error = await refused(client.pause(ECHO))

    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAVAILABLE, "SHARD_UNAVAILABLE")
    assert "The method is paused on shard b, and perhaps not on shard a" in str(error.details())


async def test_a_pause_holds_on_a_shard_that_has_not_heard_of_the_method_yet(
    gateways: Gateways, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Upkeep, "start", lambda self: None)  # the methods are published late
    client = Client(await gateways.channel(await gateways.start()))
    await client.pause(ECHO)

    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            paused = connection.execute("select name from rowcall.method where paused_at is not null").fetchall()
        assert paused == [(ECHO,)]
