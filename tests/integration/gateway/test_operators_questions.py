"""A run whose answers are known: each question of an operator's is answered by an RPC, as `docs/operating.md` says."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc.code_pb2 import Code

from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, EchoResponse, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.queue.postgres.admin import PostgresQueueAdmin
from rowcall.v1.catalogue_service_pb2 import ListGatewaysRequest
from rowcall.v1.catalogue_service_pb2_grpc import CatalogueServiceStub
from rowcall.v1.job_pb2 import JobCounts
from rowcall.v1.job_service_pb2 import CancelJobRequest
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall.v1.queue_service_pb2 import ListQueueActivityRequest, ListQueueActivityResponse
from rowcall.v1.queue_service_pb2_grpc import QueueServiceStub
from rowcall.v1.tenant_service_pb2 import (
    GetTenantRequest,
    ListTenantFailuresRequest,
    ListTenantsRequest,
    SetTenantWeightRequest,
    Tenant,
)
from rowcall.v1.tenant_service_pb2_grpc import TenantServiceStub
from rowcall.v1.worker_service_pb2 import ListWorkersRequest
from rowcall.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.fix_cluster import Cluster
from tests.fix_commands import ROWCALL, Ran, environment
from tests.fix_gateway import Gateways, refused, tenant
from tests.fix_worker import Workers
from tests.support.waiting import until

NOW = ("prefer", "wait=0")
VERSION = "2031-05-04.3f2a9c1"


class System:
    """A gateway of a deployed version, and its stubs."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self.address = address
        self.probe, self.tenants = ProbeServiceStub(channel), TenantServiceStub(channel)
        self.queues, self.workers = QueueServiceStub(channel), WorkerServiceStub(channel)
        self.catalogue, self.jobs = CatalogueServiceStub(channel), JobServiceStub(channel)

    async def echo(self, name: str) -> None:
        answer: EchoResponse = await self.probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=tenant(name))
        assert answer.payload == b"x"

    async def all_tenants(self) -> dict[str, Tenant]:
        answer = await self.tenants.ListTenants(ListTenantsRequest(), timeout=20)
        assert not answer.unreachable_shards
        return {each.name.removeprefix("tenants/"): each for each in answer.tenants}

    async def activity(self) -> ListQueueActivityResponse:
        answer: ListQueueActivityResponse = await self.queues.ListQueueActivity(ListQueueActivityRequest(), timeout=20)
        assert not answer.unreachable_shards
        return answer


@pytest.fixture
async def system(gateways: Gateways, cluster: Cluster) -> System:
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute("insert into rowcall_catalogue.tenant (tenant, shard) values ('acme', 'a'), ('bolt', 'a')")
    gateway = await gateways.start(deployed_version=VERSION)
    return System(await gateways.channel(gateway), gateway.address)


def numbers(counts: JobCounts) -> tuple[int, ...]:
    return (counts.accepted, counts.started, counts.succeeded, counts.failed, counts.dead, counts.cancelled)


def answers(counts: JobCounts) -> dict[str, int]:
    """How calls were answered, without those that none was."""
    return {
        field.name.removeprefix("answered_"): number
        for field, number in counts.ListFields()
        if field.name.startswith("answered_")
    }


async def test_what_each_tenant_did_today_and_whether_that_was_its_share(system: System, workers: Workers) -> None:
    waits = await system.probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))
    await system.jobs.CancelJob(CancelJobRequest(name=waits.name), timeout=20, metadata=tenant("acme"))
    await workers.start()
    for _ in range(6):
        await system.echo("acme")
    for _ in range(2):
        await system.echo("bolt")
    # It fails at once, and for good.
    await refused(
        system.probe.Await(AwaitRequest(fail_code=Code.INVALID_ARGUMENT), timeout=20, metadata=tenant("bolt"))
    )
    await system.tenants.SetTenantWeight(
        SetTenantWeightRequest(name="tenants/acme", weight=3), timeout=20, metadata=tenant("acme")
    )
    found: dict[str, Tenant] = {}

    async def told() -> bool:
        found.clear()
        found.update(await system.all_tenants())
        return {name: (numbers(each.today), answers(each.today)) for name, each in found.items()} == {
            # Of the job that was cancelled before it began its caller has had the operation.
            "acme": ((7, 6, 6, 0, 0, 1), {"in_time": 6, "operation": 1}),
            "bolt": ((3, 3, 2, 1, 1, 0), {"in_time": 2, "failed": 1}),
        }

    await until(told, every=0.2)
    acme, bolt = found["acme"], found["bolt"]
    assert acme.shard == bolt.shard == "a"
    assert (acme.share, bolt.share) == pytest.approx((6 / 9, 3 / 9))
    assert (acme.due_share, bolt.due_share) == pytest.approx((3 / 4, 1 / 4))
    assert (acme.waiting, bolt.waiting) == (0, 0)
    answer = await system.tenants.GetTenant(GetTenantRequest(name="tenants/bolt"), timeout=20, metadata=tenant("bolt"))
    assert numbers(answer.tenant.today) == (3, 3, 2, 1, 1, 0)
    assert answer.tenant.share == pytest.approx(3 / 9)

    [queue] = (await system.activity()).queues
    # A job that no worker had is cancelled in no queue.
    assert numbers(queue.today) == (10, 9, 8, 1, 1, 0)
    assert answers(queue.today) == {"in_time": 8, "operation": 1, "failed": 1}


async def test_what_waits_where_and_for_how_long_and_how_fast_it_goes(system: System, workers: Workers) -> None:
    for number in range(4):
        await system.probe.Run(RunRequest(payload=b"%d" % number), timeout=20, metadata=tenant("acme", NOW))
    await system.probe.Run(RunRequest(), timeout=20, metadata=tenant("bolt", NOW))

    async def waiting() -> bool:
        [queue] = (await system.activity()).queues
        return queue.waiting == 5

    await until(waiting, every=0.2)
    [queue] = (await system.activity()).queues
    assert (queue.name, queue.running, queue.paused) == ("probe", 0, False)
    assert queue.oldest_age.ToTimedelta().total_seconds() > 0
    assert {name: each.waiting for name, each in (await system.all_tenants()).items()} == {"acme": 4, "bolt": 1}
    await workers.start()

    async def done() -> bool:
        answer = await system.activity()
        [queue] = answer.queues
        return queue.today.succeeded == 5 and queue.waiting == 0

    await until(done, every=0.2)
    answer = await system.activity()
    [queue] = answer.queues
    seconds = answer.measured_over.ToTimedelta().total_seconds()
    assert queue.rates.succeeded * seconds == pytest.approx(5)
    assert not queue.HasField("oldest_age")


async def test_however_many_watch_the_shards_are_asked_once(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(name: str) -> None:
        real: Callable[..., Awaitable[Any]] = getattr(PostgresQueueAdmin, name)

        async def ask(self: Any, *arguments: Any, **more: Any) -> Any:
            asked.append(name)
            return await real(self, *arguments, **more)

        monkeypatch.setattr(PostgresQueueAdmin, name, ask)

    counted("activity")
    counted("workers")
    await asyncio.gather(
        *(system.activity() for _ in range(20)),
        *(system.workers.ListWorkers(ListWorkersRequest(), timeout=20) for _ in range(20)),
    )
    # Twice, where the first of them came at the end of a second.
    assert 2 <= asked.count("activity") <= 4, "of each of two shards"
    assert 2 <= asked.count("workers") <= 4


async def test_what_fails_across_tenants(system: System, workers: Workers, rowcall_process: Callable[..., Ran]) -> None:
    await workers.start()
    for name, code in (
        ("acme", Code.INVALID_ARGUMENT), ("bolt", Code.INVALID_ARGUMENT), ("bolt", Code.INVALID_ARGUMENT), ("acme", Code.NOT_FOUND),
    ):  # fmt: skip
        await refused(system.probe.Await(AwaitRequest(fail_code=code), timeout=20, metadata=tenant(name)))
    answer = await system.tenants.ListTenantFailures(ListTenantFailuresRequest(), timeout=20)
    most, least = answer.groups
    assert [(group.job_count, group.tenant_count, group.error.code) for group in answer.groups] == [
        (3, 2, Code.INVALID_ARGUMENT),
        (1, 1, Code.NOT_FOUND),
    ]
    assert most.sample.startswith("tenants/bolt/operations/"), "the last of them"
    assert least.sample.startswith("tenants/acme/operations/")
    assert list(answer.unreachable_shards) == []
    nothing = await system.tenants.ListTenantFailures(ListTenantFailuresRequest(method="a.B/C"), timeout=20)
    assert list(nothing.groups) == []
    ran: Ran = await asyncio.to_thread(rowcall_process, "tenants", "failures", ROWCALL_ADDRESS=system.address)
    assert [line.split()[:2] for line in ran.out.splitlines()[1:]] == [["3", "2"], ["1", "1"]]


async def test_which_versions_live_and_since_when(system: System, workers: Workers) -> None:
    worker = await workers.start(deployed_version="next")
    [gateway] = (await system.catalogue.ListGateways(ListGatewaysRequest(), timeout=20)).gateways
    assert (gateway.version, gateway.current) == (VERSION, True)
    assert gateway.release
    assert gateway.start_time.ToNanoseconds() <= gateway.see_time.ToNanoseconds()
    [found] = (await system.workers.ListWorkers(ListWorkersRequest(), timeout=20)).workers
    assert (found.name, found.version, found.release) == (worker.name, "next", gateway.release)


async def test_the_commands_tell_it(system: System, workers: Workers, rowcall_process: Callable[..., Ran]) -> None:
    worker = await workers.start(deployed_version="next", slots=7)
    for _ in range(3):
        await system.echo("acme")

    async def told() -> bool:
        [queue] = (await system.activity()).queues
        return (queue.today.succeeded, queue.today.answered_in_time) == (3, 3)

    await until(told, every=0.2)

    async def rowcall(*arguments: str) -> Ran:
        ran: Ran = await asyncio.to_thread(rowcall_process, *arguments, ROWCALL_ADDRESS=system.address)
        assert ran.code == 0, ran.err
        return ran

    top = (await rowcall("top", "--once", "--json")).json
    assert {name: count for name, count in top["today"].items() if count} == {
        "accepted": 3, "started": 3, "succeeded": 3, "answered_in_time": 3
    }  # fmt: skip
    assert [(queue["name"], queue["waiting"], queue["running"]) for queue in top["queues"]] == [("probe", 0, 0)]
    assert top["measured_over_seconds"] > 0
    assert [(each["name"], each["slots"]) for each in top["workers"]] == [(worker.name, 7)]
    assert (top["errors"], top["unreachable_shards"]) == ([], [])
    text = (await rowcall("top", "--once")).out
    assert "1 steady, slots 0 of 7" in text
    assert "3 succeeded" in text
    assert "3 in time, 0 joined, 0 operation, 0 still running, 0 failed" in text

    listed = await rowcall("workers", "list")
    assert listed.out.splitlines()[1].split()[0] == worker.name
    assert "next" in (await rowcall("workers", "show", worker.name)).out
    versions = (await rowcall("versions", "--json")).json["versions"]
    assert sorted((each["service"], each["version"], each["processes"]) for each in versions) == [
        ("gateway", VERSION, 1), ("worker", "next", 1),
    ]  # fmt: skip
    tenants = await rowcall("tenants", "list", "--by", "accepted")
    line = dict(zip(tenants.out.splitlines()[0].split(), tenants.out.splitlines()[1].split(), strict=False))
    assert (line["tenant"], line["due"], line["share"], line["accepted"]) == ("acme", "100%", "100%", "3")


def watched(address: str) -> tuple[str, int]:
    """What `rowcall top` shows on a terminal until its second frame, and the code that it ends with at Ctrl-C."""
    terminal, its_end = pty.openpty()
    # What it asks the terminal for: a screen of so many lines and columns.
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    variables = {**environment({}), "ROWCALL_ADDRESS": address, "TERM": "xterm"}
    variables.pop("COLUMNS")
    with subprocess.Popen(
        [ROWCALL, "top"], stdin=its_end, stdout=its_end, stderr=its_end, env=variables, start_new_session=True
    ) as process:
        os.close(its_end)
        shown = ""
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        while shown.count("rowcall top") < 2:
            try:
                shown += os.read(terminal, 65536).decode()
            except OSError:
                break  # it has ended
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):
            while chunk := os.read(terminal, 65536):
                shown += chunk.decode()
        code = process.wait(30)
        watchdog.cancel()
    os.close(terminal)
    return shown, code


async def test_top_watches_until_ctrl_c(system: System, workers: Workers) -> None:
    await workers.start(slots=7)
    await system.echo("acme")
    shown, code = await asyncio.to_thread(watched, system.address)
    assert code == 0, shown
    assert shown.count("rowcall top") >= 2, shown
    assert "1 steady, slots 0 of 7" in shown
    assert "probe" in shown
