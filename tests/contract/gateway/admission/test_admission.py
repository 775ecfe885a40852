"""What is let in and what is not, as callers see it, for every way in; over real gRPC, a gateway and a shard."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from importlib import resources
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import QuotaFailure
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rowcall.errors import status_of
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.admission_service_pb2 import Bound, BoundTarget, DeleteBoundRequest, SetBoundRequest
from rowcall.v1.admission_service_pb2_grpc import AdmissionServiceStub
from rowcall.v1.job_service_pb2 import BatchSubmitRequest, JobSpec, ListJobsRequest, RetryJobRequest, SubmitRequest
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall_gateway.admission.meters import LONGEST, SHORTEST
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, info_of, jobs, keyed, refused, retry_delay_of, tenant, trailer
from tests.support.waiting import until

ECHO = "rowcall.probe.v1.ProbeService/Echo"
QUEUE = "probe"
NOW = ("prefer", "wait=0")
SERVICE_CONFIG = (resources.files("rowcall_gateway") / "service_config.json").read_text()


class Client:
    """A gateway: what it is bounded by, and calls of it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.admission, self.jobs, self.probe = (
            AdmissionServiceStub(channel), JobServiceStub(channel), ProbeServiceStub(channel),
        )  # fmt: skip
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    async def bound(self, bound: Bound) -> None:
        await self.admission.SetBound(SetBoundRequest(bound=bound), timeout=20)

    async def run(self, name: str = "acme", *more: tuple[str, str]) -> str:
        """Submits a job and waits for nothing; its operation's name."""
        metadata = tenant(name, NOW, *more)
        return (await self.probe.Run(RunRequest(payload=b"p"), timeout=20, metadata=metadata)).name

    def echo(self, name: str = "acme") -> asyncio.Task[EchoResponse]:
        """A call that waits for its job."""

        async def call() -> EchoResponse:
            return await self.probe.Echo(EchoRequest(payload=b"p"), timeout=60, metadata=tenant(name))

        return asyncio.get_running_loop().create_task(call())

    async def submit(self, name: str = "acme", count: int = 1) -> None:
        if count == 1:
            await self.jobs.Submit(SubmitRequest(job=spec()), timeout=20, metadata=tenant(name))
        else:
            batch = BatchSubmitRequest(jobs=[spec()] * count)
            await self.jobs.BatchSubmit(batch, timeout=20, metadata=tenant(name))


def spec() -> JobSpec:
    request = AnyMessage()
    request.Pack(EchoRequest(payload=b"p"))
    return JobSpec(method=ECHO, request=request)


@pytest.fixture
async def client(gateways: Gateways) -> Client:
    return Client(await gateways.channel(await gateways.start()))


async def not_admitted(call: Awaitable[object], measure: str) -> grpc.aio.AioRpcError:
    """The error of a call that is not let in, for this measure."""
    error = await refused(call)
    info = info_of(error)
    assert (error.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NOT_ADMITTED"), error
    assert (info.metadata["measure"], info.metadata["origin"]) == (measure, "GATEWAY")
    delay = retry_delay_of(error)
    assert delay is not None
    assert timedelta(seconds=SHORTEST * 0.74) < delay < timedelta(seconds=LONGEST * 1.26)
    return error


def acme(**measures: Any) -> Bound:
    return Bound(target=BoundTarget(tenant="tenants/acme"), **measures)


async def test_a_call_above_a_rate_is_told_what_it_is_and_when_to_call_again(client: Client, cluster: Cluster) -> None:
    await client.run()
    await client.bound(acme(rate=0.01))
    await client.run()
    error = await not_admitted(client.run(), "rate")
    assert info_of(error).metadata["bound"] == "tenants/acme"
    assert info_of(error).metadata["limit"] == "0.01"
    found = QuotaFailure()
    assert any(detail.Unpack(found) for detail in status_of(error).details)
    assert [violation.subject for violation in found.violations] == ["tenants/acme"]
    await client.run("bolt")
    assert len(jobs(cluster, "name")) == 3, "nothing was written of what was refused"
    await client.admission.DeleteBound(DeleteBoundRequest(target=BoundTarget(tenant="tenants/acme")), timeout=20)
    await client.run()


async def test_every_way_in_counts_by_its_jobs(client: Client, cluster: Cluster) -> None:
    await client.run()
    await client.bound(acme(rate=0))
    for call in (client.run(), client.submit(), client.submit(count=3), client.echo()):
        await not_admitted(call, "rate")
    assert len(jobs(cluster, "name")) == 1
    await client.bound(acme(rate=0.001))
    await client.submit(count=5)
    await not_admitted(client.submit(), "rate")
    await not_admitted(client.submit(count=2), "rate")
    assert len(jobs(cluster, "name")) == 6


async def test_calls_in_flight_are_bounded_until_they_are_answered(client: Client, bench: Bench) -> None:
    await client.bound(acme(in_flight=2))
    waiting = [client.echo(), client.echo()]
    held = await bench.claim(2)
    await not_admitted(client.echo(), "in_flight")
    await not_admitted(client.run(), "in_flight")
    await client.run("bolt")
    for each in held:
        await bench.answer(each, EchoResponse(payload=b"p"))
    await asyncio.gather(*waiting)
    await client.run()


async def test_calls_that_wait_are_bounded_apart_from_those_that_do_not(client: Client, bench: Bench) -> None:
    await client.bound(acme(waiters=1))
    waiting = client.echo()
    (held,) = await bench.claim(1)
    await not_admitted(client.echo(), "waiters")
    await client.run()
    await client.submit(count=3)
    await bench.answer(held, EchoResponse(payload=b"p"))
    await waiting


@pytest.mark.parametrize(
    ("target", "others"),
    [
        (BoundTarget(queue=QUEUE), 0),
        (BoundTarget(method=ECHO), 1),
        (BoundTarget(tenant="tenants/acme", method=ECHO), 2),
        (BoundTarget(queue=QUEUE, method=ECHO), 1),
    ],
)
async def test_a_bound_is_of_what_it_names_and_of_nothing_else(
    client: Client, target: BoundTarget, others: int
) -> None:
    """others: of Run for acme and Echo for bolt, how many it does not touch."""
    for name in ("acme", "bolt"):
        await client.run(name)
    await client.bound(Bound(target=target, rate=0))
    await not_admitted(client.submit(), "rate")
    answers = await asyncio.gather(client.run(), client.submit("bolt"), return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == others


async def test_each_tenant_has_a_bound_of_its_own_by_one_that_is_of_each(client: Client) -> None:
    await client.bound(Bound(target=BoundTarget(tenant="tenants/-"), rate=0.01))
    await client.bound(Bound(target=BoundTarget(tenant="tenants/free"), rate=1000))
    for name in ("acme", "bolt"):
        await client.run(name)
        error = await not_admitted(client.run(name), "rate")
        assert info_of(error).metadata["bound"] == f"tenants/{name}"
    for _ in range(5):
        await client.run("free")


async def test_a_tenants_backlog_is_bounded_for_every_way_in_and_shrinks_as_it_is_worked_off(
    client: Client, bench: Bench, cluster: Cluster
) -> None:
    await client.bound(Bound(target=BoundTarget(tenant="tenants/acme", queue=QUEUE), backlog=3))
    for _ in range(3):
        await client.run()
    error = await not_admitted(client.run(), "backlog")
    assert info_of(error).metadata["limit"] == "3"
    for call in (client.submit(), client.submit(count=2), client.echo()):
        await not_admitted(call, "backlog")
    assert len(jobs(cluster, "name")) == 3
    await client.run("acme", ("rowcall-priority", "URGENT"))
    await client.run("acme", ("rowcall-run-at", "2100-01-01T00:00:00Z"))
    await client.run("bolt")
    await bench.claim(5)
    await client.run()


async def test_a_call_that_was_let_in_is_joined_while_nothing_else_is(client: Client) -> None:
    await client.bound(acme(backlog=1))
    request = RunRequest(payload=b"p")
    first = await client.probe.Run(request, timeout=20, metadata=tenant("acme", NOW, *keyed("k")))
    await not_admitted(client.run(), "backlog")
    again = await client.probe.Run(request, timeout=20, metadata=tenant("acme", NOW, *keyed("k")))
    assert again.name == first.name


async def test_a_queue_whose_oldest_job_is_too_old_takes_no_more(client: Client, bench: Bench) -> None:
    await client.run()
    await client.bound(
        Bound(target=BoundTarget(queue=QUEUE), oldest_age=Duration(nanos=200_000_000), note="it is slow today")
    )
    await until(lambda: is_refused(client), every=0.1)
    await not_admitted(client.run(), "oldest_age")
    while await bench.look():
        pass
    await until(lambda: is_let_in(client), every=0.1)


async def test_a_queue_that_is_full_takes_no_more_of_any_tenant_of_its_shard(client: Client, cluster: Cluster) -> None:
    names = [f"t{number}" for number in range(6)]
    for name in ("acme", *names):
        await client.run(name)
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        shards: dict[str, str] = dict(
            connection.execute("select tenant, shard from rowcall_catalogue.tenant").fetchall()
        )
    beside = {name for name in names if shards[name] == shards["acme"]}
    assert beside
    await client.bound(Bound(target=BoundTarget(queue=QUEUE), backlog=20))
    await client.submit("acme", count=20)
    await until(lambda: is_refused(client), every=0.1)
    answers = await asyncio.gather(*map(client.run, names), return_exceptions=True)
    refused_ones = {name for name, answer in zip(names, answers, strict=True) if isinstance(answer, BaseException)}
    assert refused_ones == beside
    await not_admitted(client.run(), "backlog")


async def test_of_many_callers_each_has_its_turn(client: Client) -> None:
    """Who was just answered is not ahead of those who wait: as callers in a closed loop see it, ten of them for each place."""
    await client.run()
    await client.bound(acme(in_flight=2))
    loop = asyncio.get_running_loop()
    end = loop.time() + 2
    longest: list[float] = []

    async def caller() -> None:
        last, most = loop.time(), 0.0
        while loop.time() < end:
            try:
                await client.run()
            except grpc.aio.AioRpcError as error:
                delay = retry_delay_of(error)
                if delay is None:
                    raise
                await asyncio.sleep(delay.total_seconds())
            else:
                most, last = max(most, loop.time() - last), loop.time()
        longest.append(max(most, loop.time() - last))

    await asyncio.gather(*(caller() for _ in range(20)))
    assert max(longest) < 5, sorted(longest)


async def test_a_rate_that_is_passed_by_little_delays_calls_and_refuses_none(client: Client) -> None:
    await client.run()
    await client.bound(acme(rate=10))
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(client.run() for _ in range(15)))
    assert asyncio.get_running_loop().time() - began > 0.4, "five of them had to wait for their turn"


async def is_refused(client: Client) -> bool:
    try:
        await client.run()
    except grpc.aio.AioRpcError:
        return True
    return False


async def is_let_in(client: Client) -> bool:
    return not await is_refused(client)


async def test_operators_and_health_checks_get_through_when_callers_do_not(client: Client, bench: Bench) -> None:
    name = await client.run()
    (held,) = await bench.claim(1)
    await client.bound(acme(rate=0, in_flight=0, waiters=0, backlog=0))
    await client.bound(Bound(target=BoundTarget(queue=QUEUE), rate=0, in_flight=0))
    await not_admitted(client.run(), "rate")
    await bench.fail(held, Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="no"))
    listed = await client.jobs.ListJobs(ListJobsRequest(), timeout=20, metadata=tenant("acme"))
    assert len(listed.jobs) == 1
    await client.jobs.RetryJob(RetryJobRequest(name=name), timeout=20, metadata=tenant("acme"))
    (again,) = await bench.claim(1)
    assert again.name == name, "it was let in long ago"
    answer = await client.health.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_stock_client_with_our_service_config_comes_again_when_it_was_told_to(
    gateways: Gateways, cluster: Cluster
) -> None:
    gateway = await gateways.start()
    plain = Client(await gateways.channel(gateway))
    stock = Client(await gateways.channel(gateway, ("grpc.service_config", SERVICE_CONFIG)))
    await plain.run()
    # One comes each three seconds, which is longer than anybody waits in line.
    await plain.bound(acme(rate=0.33))
    await plain.run()

    name = await stock.run("acme", *keyed("k"))

    assert name in {each for (each,) in jobs(cluster, "name")}, "one that has a key"
    error = await not_admitted(stock.run(), "rate")
    assert trailer(error, "grpc-retry-pushback-ms") == "-1", "without a key gRPC's own retries are not wanted"


async def test_two_gateways_share_a_bound(gateways: Gateways, bench: Bench) -> None:
    clients = [Client(await gateways.channel(await gateways.start())) for _ in range(2)]
    await clients[0].run()
    await clients[0].bound(acme(in_flight=4))
    waiting = [clients[0].echo() for _ in range(4)]
    await bench.claim(5)

    async def heard() -> bool:
        try:
            await clients[1].run()
        except grpc.aio.AioRpcError:
            return True
        return False

    # It may let in what a second's share is until it has heard of the other.
    await until(heard, every=0.2)
    error = await not_admitted(clients[1].echo(), "in_flight")
    assert info_of(error).metadata["limit"] == "4"
    for each in waiting:
        each.cancel()
    await until(lambda: is_let_in(clients[1]), every=0.2)


async def test_a_gateway_that_starts_without_a_catalogue_goes_by_what_another_has_left(
    gateways: Gateways, cluster: Cluster
) -> None:
    first = Client(await gateways.channel(await gateways.start()))
    await first.run()
    await first.bound(acme(rate=0))
    nowhere = "postgresql://postgres@127.0.0.1:1/nothing"
    second = Client(await gateways.channel(await gateways.start(catalogue=nowhere, pool_timeout=timedelta(seconds=1))))

    async def bounded() -> bool:
        error = await refused(second.run())
        return info_of(error).reason == "NOT_ADMITTED"

    await until(bounded, every=0.1)
