"""TenantService: tenants paused and weighed on their own shard, by themselves alone."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import grpc
import psycopg
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.sharding import Route
from rowcall.v1.queue_service_pb2 import ListPausesRequest, Pause
from rowcall.v1.queue_service_pb2_grpc import QueueServiceStub
from rowcall.v1.tenant_service_pb2 import PauseTenantRequest, ResumeTenantRequest, SetTenantWeightRequest
from rowcall.v1.tenant_service_pb2_grpc import TenantServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, Metadata, info_of, refused, tenant, violations_of
from tests.fix_worker import Workers
from tests.support.moving import move

NOW = ("prefer", "wait=0")
LEFT, RIGHT = "tenants/left", "tenants/right"


class Client:
    """A gateway's TenantService, what it tells of pauses, and its probe to submit with."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub, self.queues, self.probe = (
            TenantServiceStub(channel),
            QueueServiceStub(channel),
            ProbeServiceStub(channel),
        )

    async def pause(self, name: str, caller: Metadata, note: str = "") -> None:
        await self.stub.PauseTenant(PauseTenantRequest(name=name, note=note), timeout=20, metadata=caller)

    async def resume(self, name: str, caller: Metadata) -> None:
        await self.stub.ResumeTenant(ResumeTenantRequest(name=name), timeout=20, metadata=caller)

    async def weigh(self, name: str, weight: float, caller: Metadata) -> None:
        await self.stub.SetTenantWeight(SetTenantWeightRequest(name=name, weight=weight), timeout=20, metadata=caller)

    def each(self, name: str, caller: Metadata) -> Sequence[Awaitable[None]]:
        """Every change, to a tenant."""
        return self.pause(name, caller), self.resume(name, caller), self.weigh(name, 2, caller)

    async def pauses(self, caller: Metadata) -> list[Pause]:
        return list((await self.queues.ListPauses(ListPausesRequest(), timeout=20, metadata=caller)).pauses)

    async def run(self, name: str) -> None:
        await self.probe.Run(RunRequest(), timeout=20, metadata=tenant(name, NOW))


@pytest.fixture
async def client(gateways: Gateways, cluster: Cluster) -> Client:
    """Of a gateway that places the tenants left and near on shard a and the tenant right on b."""
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute(
            "insert into rowcall_catalogue.tenant (tenant, shard) values ('left', 'a'), ('near', 'a'), ('right', 'b')"
        )
    return Client(await gateways.channel(await gateways.start()))


def routes(cluster: Cluster, where: str = "true") -> dict[str, list[tuple[str, int, float]]]:
    """Tenant, state and weight of the tenants on each shard."""
    found = {}
    for name, dsn in cluster.shards.items():
        with psycopg.connect(dsn) as connection:
            rows = connection.execute(f"select tenant, state, weight from rowcall.tenant_route where {where}".encode())
            found[name] = rows.fetchall()
    return found


async def test_a_paused_tenants_jobs_wait_and_others_run(client: Client, workers: Workers) -> None:
    await client.run("right")
    await client.pause(RIGHT, tenant("right", ("rowcall-actor", "ada")), "they move house")
    await workers.start()
    held = client.probe.Echo(EchoRequest(payload=b"r"), timeout=30, metadata=tenant("right"))

    assert (await client.probe.Echo(EchoRequest(payload=b"l"), timeout=20, metadata=tenant("left"))).payload == b"l"
    assert not held.done()
    [pause] = await client.pauses(tenant("right"))
    assert (pause.WhichOneof("paused"), pause.tenant, list(pause.missing_shards)) == ("tenant", RIGHT, [])
    assert (pause.info.actor, pause.info.note) == ("ada", "they move house")
    await client.resume(RIGHT, tenant("right"))
    assert (await held).payload == b"r"


async def test_a_tenant_is_paused_on_its_own_shard_by_itself_alone(client: Client, cluster: Cluster) -> None:
    await client.run("left")
    await client.run("right")
    await client.pause(RIGHT, tenant("right"))

    paused = routes(cluster, "paused_at is not null")
    assert ([row[0] for row in paused["a"]], [row[0] for row in paused["b"]]) == ([], ["right"])
    assert await client.pauses(tenant("left")) == [], "nobody is told of another tenant's"
    for attempt in client.each(RIGHT, tenant("left")):
        error = await refused(attempt)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "NOT_KNOWN")
        assert info_of(error).metadata["name"] == RIGHT
    assert routes(cluster, "paused_at is not null") == paused
    assert paused["b"][0][2] == 1
    await client.resume(RIGHT, tenant("right"))
    assert await client.pauses(tenant("right")) == []


@pytest.mark.parametrize("other", ["near", "right"])
async def test_another_tenant_is_refused_like_one_that_does_not_exist(
    client: Client, cluster: Cluster, other: str
) -> None:
    """On the caller's own shard and elsewhere."""
    for name in ("left", other):
        await client.run(name)
    before = routes(cluster)
    for there, nowhere in zip(
        client.each(f"tenants/{other}", tenant("left")), client.each("tenants/nobody", tenant("left")), strict=True
    ):
        errors = [await refused(attempt) for attempt in (there, nowhere)]
        assert len({(error.code(), error.details(), info_of(error).reason) for error in errors}) == 1
    assert (routes(cluster), routes(cluster, "paused_at is not null")) == (before, {"a": [], "b": []})


async def test_a_tenant_that_moved_is_paused_where_it_lives_now(client: Client, cluster: Cluster) -> None:
    await client.run("left")
    move(cluster, Route("left", "a", 1), "b")

    await client.pause(LEFT, tenant("left"))

    assert routes(cluster, "paused_at is not null") == {"a": [], "b": [("left", 1, 1.0)]}


async def test_a_weight_is_kept_on_the_tenants_shard(client: Client, cluster: Cluster) -> None:
    await client.run("right")
    await client.weigh(RIGHT, 2.5, tenant("right"))

    assert routes(cluster) == {"a": [], "b": [("right", 1, 2.5)]}


async def test_a_tenant_without_jobs_is_not_found(client: Client, cluster: Cluster) -> None:
    for attempt in client.each("tenants/nobody", tenant("nobody")):
        assert info_of(await refused(attempt)).reason == "NOT_KNOWN"
    assert routes(cluster) == {"a": [], "b": []}, "asking places nobody"


@pytest.mark.parametrize("name", ["right", "tenants/", "tenants/Right", "tenants/right/operations/1", "shards/right"])
async def test_what_is_no_tenants_name_is_refused(client: Client, name: str) -> None:
    for attempt in client.each(name, tenant("right")):
        error = await refused(attempt)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_NAME")
        assert info_of(error).metadata["name"] == name


async def test_requests_that_break_rules_are_refused_with_the_field(client: Client, cluster: Cluster) -> None:
    await client.run("right")
    for attempt in client.each("", tenant("right")):
        assert set(violations_of(await refused(attempt))) == {"name"}
    for weight in (0, -1, 101, float("nan")):
        assert set(violations_of(await refused(client.weigh(RIGHT, weight, tenant("right"))))) == {"weight"}
    for note in ("x" * 1001, "x\0"):
        assert set(violations_of(await refused(client.pause(RIGHT, tenant("right"), note)))) == {"note"}
    assert routes(cluster, "paused_at is null") == {"a": [], "b": [("right", 1, 1.0)]}
