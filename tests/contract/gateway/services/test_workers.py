"""WorkerService: which workers live, since when, what they serve and what they run; whose jobs, by who asks."""

from __future__ import annotations

import asyncio
import importlib.metadata
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, PAYLOAD_VIEWER, VIEWER
from rowcall.v1.worker_service_pb2 import (
    GetWorkerRequest,
    GetWorkerResponse,
    ListWorkersRequest,
    ListWorkersResponse,
    Worker,
    WorkerState,
)
from rowcall.v1.worker_service_pb2_grpc import WorkerServiceStub
from rowcall_gateway.shards import looks
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, Metadata, info_of, refused, violations_of
from tests.fix_worker import Call, Calls, Workers, serve
from tests.support.gate import Gate
from tests.support.tokens import TokenIssuer
from tests.support.waiting import until

STEADY, SUSPECTED = WorkerState.WORKER_STATE_STEADY, WorkerState.WORKER_STATE_SUSPECTED
ECHO = "rowcall.probe.v1.ProbeService/Echo"


class Client:
    """A gateway's WorkerService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = WorkerServiceStub(channel)

    async def list(self, caller: Metadata = (), **fields: Any) -> ListWorkersResponse:
        return await self.stub.ListWorkers(ListWorkersRequest(**fields), timeout=20, metadata=caller)

    async def get(self, name: str, caller: Metadata = ()) -> GetWorkerResponse:
        return await self.stub.GetWorker(GetWorkerRequest(name=name), timeout=20, metadata=caller)

    async def when(self, name: str, true: Callable[[Worker], bool], caller: Metadata = ()) -> Worker:
        """A worker, once that is true of it."""
        found: list[Worker] = []

        async def there() -> bool:
            found[:] = [(await self.get(name, caller)).worker]
            return true(found[0])

        await until(there, every=0.05)
        return found[0]


@pytest.fixture(autouse=True)
def _asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks again sees what has changed."""
    monkeypatch.setattr(looks, "KEPT", 0.0)


@pytest.fixture
async def gate(cluster: Cluster) -> AsyncIterator[Gate]:
    """Before shard a."""
    async with Gate(cluster.gateway.shards["a"]) as opened:
        yield opened


@pytest.fixture
async def client(gateways: Gateways) -> Client:
    return Client(await gateways.channel(await gateways.start()))


class Blocking:
    """Handlers that go on until they are let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def echo(self, request: EchoRequest, context: Any) -> EchoResponse:
        """Waits."""
        await self.let_go.wait()
        return EchoResponse(payload=request.payload)


def register(cluster: Cluster, shard: str, name: str) -> None:
    """Registers a worker whose renewals never come."""
    with psycopg.connect(cluster.shards[shard], autocommit=True) as connection:
        connection.execute(
            "select rowcall.register_worker(%s, %s, '1 minute', null, null, null, null, null, null, null)",
            [uuid4(), name],
        )


async def test_a_worker_is_told_with_what_it_is_and_serves(client: Client, workers: Workers) -> None:
    began = datetime.now(UTC)
    one = await workers.start(slots=7, threads=3, deployed_version="2031-05-04.3f2a9c1", queues="probe=2:5")
    other = await workers.start()
    found = await client.when(one.name, lambda worker: bool(worker.methods) and len(worker.registrations) == 2)

    assert (found.host, found.version) == (socket.gethostname(), "2031-05-04.3f2a9c1")
    assert found.release == importlib.metadata.version("rowcall-worker")
    assert (found.state, found.suspects_only) == (STEADY, False)
    assert (found.slots, found.slots_taken, found.threads, found.threads_taken) == (7, 0, 3, 0)
    assert (list(found.queues), found.every_queue) == (["probe"], False)
    assert ECHO in found.methods
    assert [each.shard for each in found.registrations] == ["a", "b"]
    for each in found.registrations:
        assert (each.state, each.running) == (STEADY, 0)
        assert each.renew_time.ToDatetime(tzinfo=UTC) < each.expire_time.ToDatetime(tzinfo=UTC)
    assert abs((found.start_time.ToDatetime(tzinfo=UTC) - began).total_seconds()) < 15
    every = await client.when(other.name, lambda worker: bool(worker.methods))
    assert (every.every_queue, list(every.queues), every.version) == (True, [], "")

    listed = await client.list()
    assert [each.name for each in listed.workers] == sorted([one.name, other.name])
    assert list(listed.unreachable_shards) == []
    first = await client.list(page_size=1)
    second = await client.list(page_size=1, page_token=first.next_page_token)
    assert [each.name for each in (*first.workers, *second.workers)] == sorted([one.name, other.name])
    assert (bool(first.next_page_token), second.next_page_token) == (True, "")

    await other.drain()
    assert [each.name for each in (await client.list()).workers] == [one.name], "who has left lives no more"
    assert info_of(await refused(client.get(other.name))).reason == "NOT_KNOWN"


async def test_what_a_worker_runs_is_told_to_its_own_tenant_and_to_admins(
    gateways: Gateways, workers: Workers, calls: Calls, tmp_path: Path
) -> None:
    issuer = TokenIssuer()
    client = Client(await gateways.channel(await gateways.start(identity="jwt", issuers=issuer.write(tmp_path))))
    blocking = Blocking()
    worker = await workers.start(serve(echo=blocking.echo), slots=9)
    jobs = {name: (await calls.submit("Echo", EchoRequest(), call=Call(tenant=name))).name for name in ("acme", "bolt")}

    def caller(tenant: str, *roles: str) -> Metadata:
        return issuer.metadata(tenant=tenant, roles=list(roles))

    def names(worker: Worker) -> list[str]:
        return [job.name for job in worker.jobs]

    admin: Metadata = issuer.metadata(tenant="acme", roles=[ADMIN])
    seen = await client.when(worker.name, lambda each: len(each.jobs) == 2, admin)
    assert set(names(seen)) == set(jobs.values())
    assert {(job.method, job.queue, job.attempt) for job in seen.jobs} == {(ECHO, "probe", 1)}
    assert (seen.slots_taken, seen.threads_taken, sum(each.running for each in seen.registrations)) == (2, 0, 2)
    for role in (OPERATOR, VIEWER, PAYLOAD_VIEWER):
        for name in ("acme", "bolt"):
            found = (await client.get(worker.name, caller(name, role))).worker
            assert names(found) == [jobs[name]]
            assert found.slots_taken == 2, "how busy it is, is nobody's secret"
        assert names((await client.get(worker.name, caller("left", role))).worker) == []
    [listed] = (await client.list(caller("acme", VIEWER))).workers
    assert (listed.slots_taken, names(listed)) == (2, [])
    for call in (client.get(worker.name, caller("acme", CALLER)), client.list(caller("acme", CALLER))):
        assert info_of(await refused(call)).reason == "MISSING_ROLE"

    blocking.let_go.set()
    done = await client.when(worker.name, lambda each: not each.jobs and each.slots_taken == 0, admin)
    assert done.state == STEADY


async def test_one_that_does_not_renew_is_suspected(client: Client, cluster: Cluster) -> None:
    register(cluster, "a", "stuck")
    assert (await client.get("stuck")).worker.state == STEADY
    with psycopg.connect(cluster.shards["a"], autocommit=True) as connection:
        connection.execute("update rowcall.worker_beat set renewed_at = renewed_at - interval '4 seconds'")
    found = (await client.get("stuck")).worker
    assert (found.state, [each.state for each in found.registrations]) == (SUSPECTED, [SUSPECTED])
    assert (found.release, found.slots, found.every_queue, list(found.methods)) == ("", 0, False, [])


async def test_a_shard_that_is_away_is_named_and_the_others_are_shown(
    gateways: Gateways, cluster: Cluster, gate: Gate
) -> None:
    gateway = await gateways.start(
        shards={**cluster.gateway.shards, "a": gate.dsn}, connect_timeout="2s", pool_timeout="2s"
    )
    client = Client(await gateways.channel(gateway))
    register(cluster, "a", "on-a")
    register(cluster, "b", "on-b")
    assert [each.name for each in (await client.list()).workers] == ["on-a", "on-b"]
    await gate.shut()
    listed = await client.list()
    assert ([each.name for each in listed.workers], list(listed.unreachable_shards)) == (["on-b"], ["a"])
    shown = await client.get("on-b")
    assert (shown.worker.name, list(shown.unreachable_shards)) == ("on-b", ["a"])
    unsure = await refused(client.get("on-a"))
    assert info_of(unsure).reason == "SHARD_UNAVAILABLE", "the shard that is away may know it"


async def test_a_shard_that_hangs_costs_the_call_its_bound_and_is_not_asked_again_meanwhile(
    gateways: Gateways, cluster: Cluster, gate: Gate
) -> None:
    gateway = await gateways.start(shards={**cluster.gateway.shards, "a": gate.dsn}, connect_timeout="2s")
    client = Client(await gateways.channel(gateway))
    register(cluster, "b", "on-b")
    await client.list()
    gate.freeze()
    for _ in range(3):
        listed = await client.stub.ListWorkers(ListWorkersRequest(), timeout=1)
        assert ([each.name for each in listed.workers], list(listed.unreachable_shards)) == (["on-b"], ["a"])


async def test_requests_that_break_rules_are_refused_with_the_field(client: Client) -> None:
    for name in ("", "x" * 256, "a\0b"):
        assert set(violations_of(await refused(client.get(name)))) == {"name"}
    assert set(violations_of(await refused(client.list(page_size=-1)))) == {"page_size"}
    assert info_of(await refused(client.list(page_token="no token"))).reason == "INVALID_PAGE_TOKEN"
