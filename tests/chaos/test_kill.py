"""What nobody is warned of: gateways, workers and Postgres killed in the middle of their work. Nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from contextlib import ExitStack

import grpc
import psycopg
import pytest

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from tests.fix_cluster import Cluster, RestartableCluster
from tests.fix_services import ServiceProcess, Services
from tests.support.waiting import until

CALLS = 1_000
TENANTS = 10
IN_FLIGHT = 64
LEASE = "3s"


def finished(cluster: Cluster) -> Counter[tuple[str, str]]:
    """How many rows each shard has, live and finished, by state."""
    counts: Counter[tuple[str, str]] = Counter()
    for shard, dsn in cluster.shards.items():
        with psycopg.connect(dsn) as connection:
            for state, count in connection.execute("select state, count(*) from rowcall.jobs group by state"):
                counts[shard, state] = count
    return counts


async def call_until_answered(address: list[str], number: int, answers: dict[int, bytes]) -> None:
    """One keyed call, repeated with its key until it is answered: what a caller that retries does."""
    while True:
        async with grpc.aio.insecure_channel(address[0]) as channel:
            probe = probe_pb2_grpc.ProbeServiceStub(channel)
            try:
                response = await probe.Echo(
                    probe_pb2.EchoRequest(payload=b"%d" % number),
                    metadata=[
                        ("rowcall-tenant", f"tenant-{number % TENANTS}"),
                        ("idempotency-key", f"call-{number}"),
                    ],
                    timeout=20,
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    raise
                await asyncio.sleep(random.uniform(0, 0.2))  # a retry's backoff, not a wait for a condition
                continue
        answers[number] = response.payload
        return


@pytest.mark.timeout(180)
async def test_a_killed_gateway_and_a_killed_worker_lose_no_acknowledged_call(
    cluster: Cluster, services: Services
) -> None:
    gateway = services.gateway()
    address = [await asyncio.to_thread(gateway.address)]
    workers = [services.worker(ROWCALL_LEASE=LEASE) for _ in range(2)]
    for worker in workers:
        await asyncio.to_thread(worker.ready)
    answers: dict[int, bytes] = {}
    free = asyncio.Semaphore(IN_FLIGHT)

    async def call(number: int) -> None:
        async with free:
            await call_until_answered(address, number, answers)

    async def kill() -> None:
        await until(lambda: len(answers) >= CALLS // 4)
        await asyncio.to_thread(workers[0].kill)
        workers[0] = services.worker(ROWCALL_LEASE=LEASE)
        await until(lambda: len(answers) >= CALLS // 2)
        await asyncio.to_thread(gateway.kill)
        restarted = services.gateway()
        address[0] = await asyncio.to_thread(restarted.address)

    await asyncio.gather(kill(), *(call(number) for number in range(CALLS)))

    assert answers == {number: b"%d" % number for number in range(CALLS)}
    rows = finished(cluster)
    # One row a key, however often the call was repeated, and every one of them finished.
    assert sum(rows.values()) == CALLS, rows
    assert {state for _, state in rows} == {"SUCCEEDED"}, rows


@pytest.mark.timeout(120)
async def test_what_a_killed_gateway_acknowledged_is_finished_after_the_restart(
    cluster: Cluster, services: Services
) -> None:
    gateway = services.gateway()
    names: list[str] = []

    async def submit(probe: probe_pb2_grpc.ProbeServiceAsyncStub, number: int) -> None:
        try:
            operation = await probe.Run(
                probe_pb2.RunRequest(payload=b"%d" % number),
                metadata=[("rowcall-tenant", f"tenant-{number % TENANTS}"), ("prefer", "wait=0")],
                timeout=20,
            )
        except grpc.aio.AioRpcError:
            return  # not acknowledged
        names.append(operation.name)

    async def kill() -> None:
        await until(lambda: len(names) >= CALLS // 4)
        gateway.process.kill()

    async with grpc.aio.insecure_channel(await asyncio.to_thread(gateway.address)) as channel:
        stub = probe_pb2_grpc.ProbeServiceStub(channel)
        await asyncio.gather(kill(), *(submit(stub, number) for number in range(CALLS)))
    await asyncio.to_thread(gateway.process.wait)
    assert CALLS // 4 <= len(names) < CALLS, "the kill was to come in the middle"

    await asyncio.to_thread(services.worker(ROWCALL_LEASE=LEASE).ready)

    def succeeded() -> set[str]:
        found: set[str] = set()
        for dsn in cluster.shards.values():
            with psycopg.connect(dsn) as connection:
                found |= {
                    name for (name,) in connection.execute("select name from rowcall.jobs where state = 'SUCCEEDED'")
                }
        return found

    await until(lambda: set(names) <= succeeded(), seconds=60)


@pytest.mark.timeout(180)
async def test_a_killed_postgres_loses_no_acknowledged_call(restartable_cluster: RestartableCluster) -> None:
    cluster = restartable_cluster
    answers: dict[int, bytes] = {}
    free = asyncio.Semaphore(IN_FLIGHT)

    with ExitStack() as stack:
        services = Services(cluster, stack)
        gateway, worker = services.gateway(), services.worker(ROWCALL_LEASE=LEASE)
        await asyncio.to_thread(worker.ready)
        address = [await asyncio.to_thread(gateway.address)]

        async def call(number: int) -> None:
            async with free:
                await call_until_answered(address, number, answers)

        def answered(enough: int) -> bool:
            return len(answers) >= enough

        async def kill() -> None:
            for enough in (CALLS // 4, CALLS // 2, CALLS * 3 // 4):
                await until(functools.partial(answered, enough), seconds=60)
                await asyncio.to_thread(cluster.postgres.kill)
                await asyncio.to_thread(cluster.postgres.start)

        await asyncio.gather(kill(), *(call(number) for number in range(CALLS)))
        assert answers == {number: b"%d" % number for number in range(CALLS)}
        rows = finished(cluster)
        assert sum(rows.values()) == CALLS, rows
        assert {state for _, state in rows} == {"SUCCEEDED"}, rows
        assert await asyncio.to_thread(worker.end) == 0
        assert await asyncio.to_thread(gateway.end) == 0


@pytest.mark.timeout(120)
async def test_a_call_whose_gateway_is_killed_while_it_waits_is_answered_by_another(
    cluster: Cluster, services: Services
) -> None:
    first, second = services.gateway(), services.gateway()
    await asyncio.to_thread(services.worker().ready)
    metadata = [("rowcall-tenant", "acme"), ("idempotency-key", "slow")]
    request = probe_pb2.AwaitRequest(payload=b"once")
    request.work.FromMilliseconds(1500)

    async with grpc.aio.insecure_channel(await asyncio.to_thread(first.address)) as channel:
        waiting = asyncio.ensure_future(
            probe_pb2_grpc.ProbeServiceStub(channel).Await(request, metadata=metadata, timeout=20)
        )
        await until(lambda: bool(finished(cluster)))
        await asyncio.to_thread(first.kill)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await waiting
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE

    async with grpc.aio.insecure_channel(await asyncio.to_thread(second.address)) as channel:
        answer = await probe_pb2_grpc.ProbeServiceStub(channel).Await(request, metadata=metadata, timeout=20)
    assert (answer.payload, answer.attempt) == (b"once", 1)
    assert sum(finished(cluster).values()) == 1


@pytest.mark.timeout(120)
async def test_a_poisonous_call_kills_its_worker_and_harms_no_other(cluster: Cluster, services: Services) -> None:
    """A handler that ends its process takes its neighbours' attempts with it, but none of their results."""
    address = await asyncio.to_thread(services.gateway().address)
    alive: list[ServiceProcess] = []

    def start_worker() -> None:
        alive.append(services.worker("--allow-faults", ROWCALL_LEASE=LEASE))
        alive[-1].ready()

    await asyncio.to_thread(start_worker)
    async with grpc.aio.insecure_channel(address) as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        tenant = ("rowcall-tenant", "acme")
        poison = await probe.Run(
            probe_pb2.RunRequest(exit_process=True), metadata=[tenant, ("prefer", "wait=0")], timeout=20
        )
        neighbours = [
            asyncio.ensure_future(
                probe.Echo(
                    probe_pb2.EchoRequest(payload=b"%d" % number),
                    metadata=[tenant, ("idempotency-key", f"n{number}")],
                    timeout=90,
                )
            )
            for number in range(50)
        ]
        await asyncio.to_thread(alive[0].process.wait, 60)
        # It kills the next one too, then only a process that is there for suspects.
        while not all(neighbour.done() for neighbour in neighbours):
            if alive[-1].process.poll() is not None:
                await asyncio.to_thread(start_worker)
            await asyncio.sleep(0.05)
        answers = await asyncio.gather(*neighbours)
    assert [answer.payload for answer in answers] == [b"%d" % number for number in range(50)]
    assert poison.name.startswith("tenants/acme/operations/")
