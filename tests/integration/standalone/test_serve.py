"""`rowcall serve` as a process: what a gateway and a worker do as two, done as one, and its ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, RunRequest
from rowcall_worker.probe import EXIT_CODE
from tests.fix_cluster import Cluster, RestartableCluster
from tests.fix_commands import environment
from tests.fix_gateway import Gateways, info_of, jobs, keyed, tenant
from tests.fix_services import END_SECONDS, ServiceProcess, Services
from tests.support.collector import Collector
from tests.support.ports import free_port
from tests.support.waiting import until

ONE = ("serve", "--listen", "127.0.0.1:0", "--lease", "2s")
TWO = (*ONE, "--processes", "2")
NOW = ("prefer", "wait=0")
NO_LOOK = "Behind a pooler there is no server to look at: the pooler's limits are its own."


def channel(address: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(
        address,
        options=(
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
        ),
    )


async def echo(address: str, payload: bytes = b"hello", *, seconds: float = 20) -> bytes:
    """One call, over a connection of its own; what it is answered with."""
    async with channel(address) as open_channel:
        stub = probe_pb2_grpc.ProbeServiceStub(open_channel)
        answer = await stub.Echo(EchoRequest(payload=payload), timeout=seconds, metadata=tenant("acme"))
    return bytes(answer.payload)


def lines(process: ServiceProcess) -> list[dict[str, Any]]:
    """What it has logged."""
    return [json.loads(line) for line in list(process.log) if line.startswith("{")]


def states(cluster: Cluster) -> Counter[str]:
    """How many jobs there are in each state."""
    return Counter(str(state) for (state,) in jobs(cluster, "state"))


async def test_it_answers_and_each_line_says_whose_it_is(services: Services) -> None:
    process = services.start("rowcall", *ONE)
    address = await asyncio.to_thread(process.address)

    assert await echo(address) == b"hello"
    assert await asyncio.to_thread(process.end) == 0, "".join(process.log)

    found = lines(process)
    of = {line["event"]: line["service"] for line in found}
    assert of["call"] == "gateway"
    assert of["serving"] == "gateway"
    assert of["worker starts"] == "worker"
    assert of["stopping"] == "serve", "the process's own"
    assert all("unlisted" not in line for line in found), "every field is one that may be written"
    ends = [line["event"] for line in found if line["event"] in ("draining", "worker drains", "worker drained")]
    assert ends == ["draining", "worker drains", "worker drained"], "callers wait for the workers: the gateway is first"


async def test_a_call_is_one_trace_of_gateway_and_worker(services: Services, collector: Collector) -> None:
    process = services.start("rowcall", *ONE, OTEL_TRACES_SAMPLER="always_on", **collector.variables)

    assert await echo(await asyncio.to_thread(process.address)) == b"hello"
    # What is still in its buffer is sent when it ends.
    assert await asyncio.to_thread(process.end) == 0, "".join(process.log)

    assert collector.chains() == {
        (
            "rowcall-serve: rowcall.probe.v1.ProbeService/Echo",
            "rowcall-serve: send probe",
            "rowcall-serve: process probe",
        )
    }


async def test_a_call_that_waits_is_answered_by_the_drain(services: Services, cluster: Cluster) -> None:
    """The worker works on while the gateway lets its calls end, spread over the grace: the longer, the later any of them."""
    process = services.start("rowcall", *ONE, "--grace", "10h")
    address = await asyncio.to_thread(process.address)
    async with channel(address) as open_channel:
        stub = probe_pb2_grpc.ProbeServiceStub(open_channel)
        waiting = stub.Await(
            AwaitRequest(payload=b"in time", work=Duration(seconds=2)), timeout=30, metadata=tenant("acme")
        )
        await until(lambda: states(cluster) == {"RUNNING": 1})
        process.process.send_signal(signal.SIGTERM)
        answer = await waiting
    assert answer.payload == b"in time"
    assert await asyncio.to_thread(process.process.wait, END_SECONDS) == 0


async def submit_all(address: str, count: int, seen: dict[str, str], *, work: float = 0.0) -> None:
    """Submits jobs one after the other until the gateway takes no more, and notes which were acknowledged."""
    async with channel(address) as open_channel:
        stub = probe_pb2_grpc.ProbeServiceStub(open_channel)
        for number in range(count):
            request = RunRequest(payload=b"x")
            request.work.FromMicroseconds(round(work * 1e6))
            metadata = tenant(f"tenant-{number % 4}", *keyed(f"k{number}", NOW))
            try:
                answer = await stub.Run(request, timeout=10, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return
            seen[f"k{number}"] = answer.name


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
async def test_nothing_acknowledged_is_lost_with_it(
    services: Services, cluster: Cluster, number: signal.Signals
) -> None:
    """Under load: killed, or told to end, with calls coming in and jobs running."""
    process = services.start("rowcall", *ONE, "--grace", "2s")
    address = await asyncio.to_thread(process.address)
    seen: dict[str, str] = {}
    load = asyncio.create_task(submit_all(address, 5_000, seen, work=0.05))
    await until(lambda: len(seen) >= 50)
    process.process.send_signal(number)
    code = await asyncio.to_thread(process.process.wait, END_SECONDS)
    await load
    assert code == (0 if number is signal.SIGTERM else -number), "".join(process.log)
    assert len(seen) < 5_000, "it ended in the middle of it"

    again = services.start("rowcall", *ONE)
    await asyncio.to_thread(again.ready)
    await until(lambda: set(states(cluster)) == {"SUCCEEDED"}, every=0.1)
    assert set(seen.values()) <= {name for (name,) in jobs(cluster, "name")}
    assert await asyncio.to_thread(again.end) == 0, "".join(again.log)


async def test_several_processes_share_a_port_and_survive_each_other(services: Services, cluster: Cluster) -> None:
    process = services.start("rowcall", *TWO)
    address = await asyncio.to_thread(process.address)

    def served() -> set[int]:
        return {line["process"] for line in lines(process) if line["event"] == "call"}

    for number in range(200):
        if served() == {1, 2}:
            break
        assert await echo(address, str(number).encode()) == str(number).encode()
    assert served() == {1, 2}, "the kernel gives each connection to either of them"
    assert {line["process"] for line in lines(process) if line["event"] == "worker starts"} == {1, 2}

    before = process.members()
    os.kill(before[1], signal.SIGKILL)
    for number in range(20):
        with suppress(grpc.aio.AioRpcError):  # a connection that went with it
            await echo(address, str(number).encode())
    await until(lambda: process.members()[1] != before[1])
    assert process.members()[2] == before[2]
    await until(lambda: sum(line["event"] == "serving" for line in lines(process)) == 3)
    assert await echo(address) == b"hello"

    assert await asyncio.to_thread(process.end) == 0, "".join(process.log)
    assert await asyncio.to_thread(process.all_gone)


async def test_a_job_that_kills_its_workers_ends_apart_and_calls_go_on(services: Services, cluster: Cluster) -> None:
    """It takes the process twice, with its gateway; then it is run in a process that has neither gateway nor other jobs."""
    process = services.start("rowcall", *TWO, "--allow-faults")
    address = await asyncio.to_thread(process.address)
    async with channel(address) as open_channel:
        stub = probe_pb2_grpc.ProbeServiceStub(open_channel)
        await stub.Run(RunRequest(exit_process=True), timeout=20, metadata=tenant("acme", NOW))

    await until(lambda: states(cluster) == {"FAILED": 1}, seconds=60, every=0.1)

    found = lines(process)
    deaths = [line for line in found if line["event"] == "process ended by itself, starting another"]
    assert [line["exit_code"] for line in deaths] == [EXIT_CODE] * 2
    apart = [line for line in found if line["event"] == "process for suspects ended by itself"]
    assert apart
    assert {(line["service"], line["exit_code"]) for line in apart} == {("worker", EXIT_CODE)}
    assert jobs(cluster, "error_reason") == [("WORKER_LOST",)]
    assert {line["service"] for line in found if line.get("part") == "suspects"} == {"worker"}
    await until(lambda: sum(line["event"] == "serving" for line in lines(process)) == 4)
    assert await echo(address) == b"hello"
    assert await asyncio.to_thread(process.end) == 0, "".join(process.log)
    assert await asyncio.to_thread(process.all_gone)


@pytest.fixture
def restartable_services(restartable_cluster: RestartableCluster) -> Iterator[Services]:
    """Starts services on a cluster whose Postgres the test stops."""
    with ExitStack() as stack:
        yield Services(restartable_cluster, stack)


async def test_it_outlives_its_postgres(
    restartable_services: Services, restartable_cluster: RestartableCluster
) -> None:
    process = restartable_services.start("rowcall", *ONE)
    address = await asyncio.to_thread(process.address)
    assert await echo(address) == b"hello"

    await asyncio.to_thread(restartable_cluster.postgres.stop)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await echo(address)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(refused.value).reason, "typed, not a broken connection"
    await asyncio.to_thread(restartable_cluster.postgres.start)

    async def answers() -> bool:
        with suppress(grpc.aio.AioRpcError):
            return await echo(address, b"again", seconds=5) == b"again"
        return False

    await until(answers, seconds=60, every=0.2)
    assert await asyncio.to_thread(process.end) == 0, "".join(process.log)


async def test_without_its_postgres_it_says_so_to_callers_and_is_ready_when_that_is(
    restartable_services: Services, restartable_cluster: RestartableCluster
) -> None:
    """Neither part waits for the other: the gateway serves while the worker waits for its first shard."""
    await asyncio.to_thread(restartable_cluster.postgres.stop)
    address = f"127.0.0.1:{free_port()}"
    process = restartable_services.start("rowcall", "serve", "--listen", address)

    async with channel(address) as open_channel:
        health: Any = health_pb2_grpc.HealthStub(open_channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await echo(address)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(refused.value).reason

    await asyncio.to_thread(restartable_cluster.postgres.start)
    assert await asyncio.to_thread(process.address) == address
    assert await echo(address) == b"hello"
    assert await asyncio.to_thread(process.end) == 0, "".join(process.log)


async def test_it_ends_when_it_is_told_to_while_it_waits_for_its_postgres(
    restartable_services: Services, restartable_cluster: RestartableCluster
) -> None:
    await asyncio.to_thread(restartable_cluster.postgres.stop)
    process = restartable_services.start("rowcall", *ONE, "--grace", "2s")
    await until(lambda: any(line["event"] == "serving" for line in lines(process)), seconds=60)

    assert await asyncio.to_thread(process.end) == 0, "".join(process.log)
    assert process.process.stdout is not None
    assert process.process.stdout.read() == "", "it never was ready"
    await asyncio.to_thread(restartable_cluster.postgres.start)


def left(folder: Path) -> list[Path]:
    """What is in a folder."""
    return list(folder.iterdir())


def refused(process: ServiceProcess) -> tuple[int, str]:
    """The exit code, and what it said."""
    code = process.process.wait(END_SECONDS)
    assert process.all_gone()
    said = "".join(process.log)
    assert "Traceback" not in said
    assert process.process.stdout is not None
    assert process.process.stdout.read() == "", "it said that it was ready"
    return code, said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lisen", "127.0.0.1:0"), "--lisen is not a flag. Did you mean --listen?"),
        (("--listen", "0.0.0.0:0"), "identity insecure-dev believes every caller"),
        (("--servicer", "nowhere:register"), "there is no module nowhere"),
        (("--image", __file__), "not a descriptor image"),
        (("--slots", "0", "--max-waiters", "0"), "2 settings are wrong"),
    ],
)
def test_what_is_wrong_is_said_and_the_exit_code_is_2(
    services: Services, arguments: tuple[str, ...], message: str
) -> None:
    code, said = refused(services.start("rowcall", *ONE, *arguments))
    assert code == 2, said
    assert message in said
    assert "rowcall: rowcall" not in said


def test_where_neither_can_start_each_says_why(services: Services) -> None:
    code, said = refused(services.start("rowcall", *ONE, "--image", __file__, "--servicer", "nowhere:register"))
    assert code == 2, said
    assert said.count("not a descriptor image") == 1
    assert said.count("there is no module nowhere") == 1


def test_a_schema_that_was_not_migrated_is_refused_with_what_to_do(services: Services, cluster: Cluster) -> None:
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            connection.execute("drop schema rowcall_migrations cascade")
    code, said = refused(services.start("rowcall", *ONE))
    assert code == 1
    assert "rowcall migrate" in said


def test_a_port_that_is_taken_is_refused(services: Services) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for more in ((), ("--processes", "2")):
            code, said = refused(services.start("rowcall", "serve", "--listen", address, *more))
            assert code == 1
            assert said.count(f"rowcall: cannot listen on {address}") == 1


@pytest.mark.straight(NO_LOOK)
def test_pools_of_both_are_added_up(services: Services, cluster: Cluster) -> None:
    """Each would fit alone."""
    with closing(psycopg.connect(cluster.catalogue_dsn)) as connection:
        row = connection.execute("select current_setting('max_connections')").fetchone()
        assert row is not None
    third = str(int(row[0]) // 3)
    code, said = refused(services.start("rowcall", *ONE, "--pool-submit", third, "--pool-settle", third))
    assert code == 2, said
    assert f"ROWCALL_POOL_SUBMIT {third}" in said
    assert f"ROWCALL_POOL_SETTLE {third}" in said


@pytest.mark.parametrize("more", [(), ("--processes", "2")], ids=["one", "two"])
async def test_its_health_check_asks_both(services: Services, tmp_path: Path, more: tuple[str, ...]) -> None:
    variables = {"ROWCALL_LISTEN": f"127.0.0.1:{free_port()}", "ROWCALL_HEALTH_FILE": str(tmp_path / "alive")}

    def checked() -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, "-m", "rowcall_standalone.healthcheck"],
            env=environment(variables),
            capture_output=True,
            check=False,
            text=True,
            timeout=END_SECONDS,
        )
        return ended.returncode, ended.stdout

    assert (await asyncio.to_thread(checked))[0] == 1
    process = services.start("rowcall", "serve", *more, **variables)
    await asyncio.to_thread(process.ready)
    code, said = await asyncio.to_thread(checked)
    assert code == 0, said
    assert "is SERVING" in said
    assert "rowcall-worker: is alive" in said

    long_ago = time.time() - 3600
    mine = tmp_path / ("alive.2" if more else "alive")
    for each in process.members().values() if more else (process.process.pid,):
        os.kill(each, signal.SIGSTOP)
    os.utime(mine, (long_ago, long_ago))
    code, said = await asyncio.to_thread(checked)
    assert code == 1
    assert "no sign of life" in said
    for each in process.members().values() if more else (process.process.pid,):
        os.kill(each, signal.SIGCONT)
    assert await asyncio.to_thread(process.end) == 0, "".join(process.log)
    assert left(tmp_path) == [], "it has left"


async def test_it_takes_the_place_of_the_two_and_gives_it_back(
    services: Services, cluster: Cluster, gateways: Gateways
) -> None:
    """The same settings, whoever reads them: a system that grows apart changes programs, and nothing else."""
    settings = {"ROWCALL_LISTEN": "127.0.0.1:0", "ROWCALL_SLOTS": "3", "ROWCALL_MAX_WAITERS": "7"}
    one = services.start("rowcall", "serve", **settings)
    assert await echo(await asyncio.to_thread(one.address)) == b"hello"
    assert await asyncio.to_thread(one.end) == 0

    gateway = services.start("rowcall-gateway", **settings)
    worker = services.start("rowcall-worker", **settings)
    await asyncio.to_thread(worker.ready)
    assert await echo(await asyncio.to_thread(gateway.address)) == b"hello"
    assert states(cluster) == {"SUCCEEDED": 2}


def test_it_loads_no_postgres_of_its_own() -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import rowcall_standalone.serve"],
        capture_output=True,
        check=True,
        env=environment({}),
        text=True,
        timeout=END_SECONDS,
    )
    modules = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if "|" in line}
    assert "rowcall_gateway.server" in modules
    assert not {name for name in modules if name.startswith("rowcall.embedded")}
