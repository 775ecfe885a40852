"""What jobs wait for and who serves queues, as a gateway's callers are told."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta

import grpc
import psycopg
import pytest

from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.job_pb2 import Wait, WaitReason
from rowcall.v1.job_service_pb2 import GetJobRequest, ListJobsRequest
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall.v1.queue_service_pb2 import GetQueueRequest, PauseQueueRequest, Queue
from rowcall.v1.queue_service_pb2_grpc import QueueServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, tenant
from tests.fix_worker import Workers, serve
from tests.support.waiting import until

QUEUE = "probe"
RUN = "rowcall.probe.v1.ProbeService/Run"
ECHO = "rowcall.probe.v1.ProbeService/Echo"
NOW = ("prefer", "wait=0")
LEASE = timedelta(seconds=30)
"""On a busy machine too a worker that lives is not told of as gone."""


class Client:
    """A gateway, for a tenant on shard a."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.jobs, self.queues, self.probe = (
            JobServiceStub(channel),
            QueueServiceStub(channel),
            ProbeServiceStub(channel),
        )

    async def run(self, *more: tuple[str, str]) -> str:
        name: str = (await self.probe.Run(RunRequest(), timeout=20, metadata=tenant("left", NOW, *more))).name
        return name

    async def waits(self, name: str) -> Sequence[Wait]:
        answer = await self.jobs.GetJob(GetJobRequest(name=name), timeout=20, metadata=tenant("left"))
        waits: Sequence[Wait] = answer.job.waits
        return waits

    async def reasons(self, name: str) -> list[str]:
        return [WaitReason.Name(wait.reason).removeprefix("WAIT_REASON_") for wait in await self.waits(name)]

    async def listed(self) -> dict[str, Sequence[Wait]]:
        answer = await self.jobs.ListJobs(ListJobsRequest(), timeout=20, metadata=tenant("left"))
        return {job.name: job.waits for job in answer.jobs}

    async def queue(self) -> Queue:
        return (await self.queues.GetQueue(GetQueueRequest(name=QUEUE), timeout=20)).queue


@pytest.fixture
async def client(gateways: Gateways, cluster: Cluster) -> Client:
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("insert into rowcall_catalogue.tenant (tenant, shard) values ('left', 'a')")
    made = Client(await gateways.channel(await gateways.start()))

    def published() -> bool:
        return all(_methods(dsn) == 3 for dsn in cluster.shards.values())

    await until(published)
    return made


async def test_a_job_tells_who_served_it_last_and_since_when_nobody_does(client: Client, workers: Workers) -> None:
    name = await client.run(("rowcall-run-at", "2041-05-04T13:30:00Z"))
    [due, nobody] = await client.waits(name)
    assert (due.reason, due.description) == (WaitReason.WAIT_REASON_TIME, "It is not due yet.")
    assert nobody.description == "No worker serves its method."
    assert (nobody.HasField("start_time"), nobody.worker) == (False, "")

    worker = await workers.start(lease=LEASE, probe=True)
    await until(lambda: _is(client.reasons(name), ["TIME"]))
    before = datetime.now(UTC) - timedelta(minutes=1)
    await worker.drain()
    _, nobody = await client.waits(name)
    assert (nobody.reason, nobody.worker) == (WaitReason.WAIT_REASON_METHOD_NOT_SERVED, worker.name)
    assert before < nobody.start_time.ToDatetime(tzinfo=UTC) < datetime.now(UTC) + timedelta(minutes=1)
    assert (nobody.actor, nobody.note) == ("", "")


async def test_a_worker_of_other_queues_does_not_serve_it(client: Client, workers: Workers) -> None:
    name = await client.run()
    await workers.start(lease=LEASE, probe=True, queues=["prboe"])
    await until(lambda: _is(client.reasons(name), ["QUEUE_NOT_SERVED"]))
    queue = await client.queue()
    assert (queue.workers, list(queue.unserved.shards)) == (0, ["a", "b"])


async def test_a_pause_is_told_with_who_and_what_for(client: Client) -> None:
    name = await client.run()
    request = PauseQueueRequest(name=QUEUE, note="rebuild")
    await client.queues.PauseQueue(request, timeout=20, metadata=(("rowcall-actor", "ada"),))
    pause = (await client.waits(name))[0]
    assert (pause.reason, pause.actor, pause.note, pause.worker) == (
        WaitReason.WAIT_REASON_QUEUE_PAUSED, "ada", "rebuild", "",
    )  # fmt: skip
    assert pause.HasField("start_time")
    assert await client.reasons(name) == ["QUEUE_PAUSED", "METHOD_NOT_SERVED"]


async def test_a_job_that_nothing_keeps_is_told_how_many_are_before_it_where_it_alone_is_asked_for(
    client: Client, bench: Bench, cluster: Cluster
) -> None:
    names = [await client.run() for _ in range(3)]
    with psycopg.connect(cluster.shards["a"]) as connection:
        connection.execute(
            "select rowcall.serve_methods(%s, (select array_agg(method_id) from rowcall.method), null)",
            [bench.worker_id],
        )
    for place, name in enumerate(names):
        [wait] = await client.waits(name)
        assert (wait.reason, wait.ahead) == (WaitReason.WAIT_REASON_TURN, place)
    listed = await client.listed()
    assert sorted(listed) == sorted(names)
    assert {wait.reason for waits in listed.values() for wait in waits} == {WaitReason.WAIT_REASON_TURN}
    assert not any(wait.HasField("ahead") for waits in listed.values() for wait in waits)
    # What runs waits for nothing.
    [runs] = await bench.claim(1)
    assert await client.waits(runs.name) == []
    assert (await client.listed())[runs.name] == []


async def test_jobs_are_shown_though_the_shard_does_not_say_what_for(client: Client, cluster: Cluster) -> None:
    name = await client.run()
    with psycopg.connect(cluster.shards["a"]) as connection:
        connection.execute("alter function rowcall.job_waits rename to job_waits_away")
    assert await client.waits(name) == []
    assert await client.listed() == {name: []}


async def test_a_queue_counts_each_worker_once_and_names_where_nobody_serves_it(
    client: Client, workers: Workers, cluster: Cluster
) -> None:
    queue = await client.queue()
    assert (queue.workers, list(queue.unserved.shards), queue.unserved.worker) == (0, ["a", "b"], "")
    assert not queue.unserved.HasField("start_time")
    both = await workers.start(lease=LEASE, probe=True)
    await until(lambda: _serves(client, 1, []))
    await workers.start(lease=LEASE, probe=True, shards={"a": cluster.worker.shards["a"]})
    await until(lambda: _serves(client, 2, []))
    await both.drain()
    queue = await client.queue()
    assert (queue.workers, list(queue.unserved.shards), queue.unserved.worker) == (1, ["b"], both.name)
    assert queue.unserved.HasField("start_time")


async def test_a_queue_names_the_methods_that_wait_in_it_unserved(client: Client, workers: Workers) -> None:
    def echo(request: object, context: object) -> object:
        raise AssertionError(request, context)

    await workers.start(serve(echo=echo), lease=LEASE)
    await until(lambda: _serves(client, 1, []))
    assert list((await client.queue()).unserved_methods) == []
    name = await client.run()
    assert list((await client.queue()).unserved_methods) == [RUN]
    assert await client.reasons(name) == ["METHOD_NOT_SERVED"]


def _methods(dsn: str) -> int:
    """How many methods gateways have published on a shard."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select count(*) from rowcall.method where queue_id is not null").fetchone()
    assert row is not None
    count: int = row[0]
    return count


async def _is(asked: Awaitable[list[str]], wanted: list[str]) -> bool:
    return await asked == wanted


async def _serves(client: Client, workers: int, unserved: list[str]) -> bool:
    queue = await client.queue()
    return (queue.workers, list(queue.unserved.shards)) == (workers, unserved)
