"""The operations ports of real services: a run whose numbers the test knows, readiness, ends, and ports that cannot be had."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

import grpc
import pytest
from google.longrunning.operations_pb2 import Operation
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, RunRequest
from tests.fix_cluster import RestartableCluster
from tests.fix_gateway import keyed, refused, tenant
from tests.fix_services import END_SECONDS, Services
from tests.support.ops import Ops, value
from tests.support.ports import free_port
from tests.support.waiting import until

HERE = "127.0.0.1"
OPS = ("--ops-listen", f"{HERE}:0")
GATEWAY, WORKER = ("--listen", f"{HERE}:0", *OPS), ("--lease", "2s", *OPS)
SERVE = ("serve", *GATEWAY, "--lease", "2s")
PROBE = "rowcall.probe.v1.ProbeService"
NOW = ("prefer", "wait=0")

RARE = {
    "rowcall_dead_letters_total",
    "rowcall_rescues_total",
    "rowcall_fence_rejected_total",
    "rowcall_telemetry_dropped_total",
    "rowcall_traces_limited_total",
}


def stub(channel: grpc.aio.Channel) -> probe_pb2_grpc.ProbeServiceAsyncStub:
    return probe_pb2_grpc.ProbeServiceStub(channel)


async def finished(call: Callable[[], Awaitable[Operation]]) -> None:
    async def done() -> bool:
        return bool((await call()).done)

    await until(done, every=0.1)


async def run(address: str) -> None:
    """Seven calls of known ends, and one of a method that there is not."""
    async with grpc.aio.insecure_channel(address) as channel:
        probe, acme = stub(channel), tenant("acme")
        for _ in range(3):
            await probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=acme)
        await probe.Echo(EchoRequest(payload=b"k"), timeout=20, metadata=(*acme, *keyed("k")))
        await probe.Echo(EchoRequest(payload=b"k"), timeout=20, metadata=(*acme, *keyed("k")))
        # It is retried once, and then done.
        again = RunRequest(fail_code=Code.UNAVAILABLE, fail_attempts=1)
        await probe.Run(again, timeout=20, metadata=(*acme, *keyed("r", NOW)))
        failing = AwaitRequest(fail_code=Code.INVALID_ARGUMENT, fail_attempts=1)
        await refused(probe.Await(failing, timeout=20, metadata=acme))
        waiting = AwaitRequest(work=Duration(seconds=2))
        await refused(probe.Await(waiting, timeout=20, metadata=(*acme, *keyed("w", ("prefer", "wait=1")))))
        nobodys: Callable[..., Awaitable[bytes]] = channel.unary_unary("/no.such.Service/Method")
        await refused(nobodys(b"", timeout=20, metadata=acme))
        # Everything has ended.
        await probe.Await(waiting, timeout=20, metadata=(*acme, *keyed("w")))
        await finished(lambda: probe.Run(again, timeout=20, metadata=(*acme, *keyed("r", ("prefer", "wait=5")))))


async def test_a_run_is_told_as_it_was(services: Services) -> None:
    gateway = services.start("rowcall-gateway", *GATEWAY)
    worker = services.start("rowcall-worker", *WORKER, ROWCALL_DEPLOYED_VERSION="2031-05-04.3f2a9c1")
    address = await asyncio.to_thread(gateway.address)
    await asyncio.to_thread(worker.ready)
    # Told before there is any: of what begins at 1 nobody sees the first.
    rare = {labels: found for labels, found in (await Ops(worker).samples()).items() if labels[0] in RARE}
    assert set(rare.values()) == {0}
    assert {name for name, _ in rare} == RARE
    dead = {labels for name, labels in rare if name == "rowcall_dead_letters_total"}
    causes = ("failed", "lost", "overdue", "expired")
    assert dead == {frozenset({("shard", shard), ("cause", cause)}) for shard in ("a", "b") for cause in causes}

    await run(address)

    calls = await Ops(gateway).samples()
    answers = {
        (method, outcome): count
        for method in ("Echo", "Run", "Await")
        for outcome in ("in_time", "joined", "operation", "still_running", "failed")
        if (count := value(calls, "rowcall_answers_total", method=f"{PROBE}/{method}", outcome=outcome))
    }
    assert answers.pop(("Run", "joined")) >= 1
    answers.pop(("Run", "operation"))
    assert answers == {
        ("Echo", "in_time"): 4,
        ("Echo", "joined"): 1,
        ("Await", "failed"): 1,
        ("Await", "still_running"): 1,
        ("Await", "joined"): 1,
    }
    duration = "rpc_server_call_duration_seconds_count"
    codes = {"OK": 1, "DEADLINE_EXCEEDED": 1, "INVALID_ARGUMENT": 1}
    of_await = {"rpc_system_name": "grpc", "rpc_method": f"{PROBE}/Await"}
    assert {code: value(calls, duration, rpc_response_status_code=code, **of_await) for code in codes} == codes
    assert value(calls, duration, rpc_method="_OTHER", rpc_response_status_code="UNIMPLEMENTED") == 1
    errors = "rowcall_call_errors_total"
    assert value(calls, errors, reason="STILL_RUNNING", code="DEADLINE_EXCEEDED", origin="GATEWAY") == 1
    assert value(calls, errors, code="INVALID_ARGUMENT", origin="JOB") == 1
    assert value(calls, errors, reason="UNKNOWN_METHOD") == 1
    assert value(calls, errors) == 3

    async def all_sent() -> bool:
        samples = await Ops(gateway).samples()
        return value(samples, "messaging_client_sent_messages_total", messaging_destination_name="probe") == 7

    await until(all_sent, every=0.1)
    assert value(calls, "rowcall_cache_lookups_total", cache="routes", result="hit") >= 5
    assert value(calls, "rowcall_write_duration_seconds_count", statement="submit") >= 7

    async def all_counted() -> bool:
        samples = await ops.samples()
        consumed = value(samples, "messaging_client_consumed_messages_total", messaging_destination_name="probe")
        return value(samples, "rowcall_attempts_total") == consumed == 8

    ops = Ops(worker)
    await until(all_counted, every=0.1)
    jobs = await ops.samples()
    ended = {"succeeded": 6, "retried": 1, "failed": 1}
    assert {each: value(jobs, "rowcall_attempts_total", outcome=each) for each in ended} == ended
    assert value(jobs, "rowcall_attempt_errors_total", code="UNAVAILABLE", method=f"{PROBE}/Run") == 1
    assert value(jobs, "rowcall_dead_letters_total", cause="failed") == 1
    took = "messaging_process_duration_seconds"
    assert value(jobs, f"{took}_count") == 8
    assert value(jobs, f"{took}_sum", method=f"{PROBE}/Await") > 2 > value(jobs, f"{took}_sum", method=f"{PROBE}/Echo")
    for statement in ("claim", "settle"):
        assert value(jobs, "rowcall_write_duration_seconds_count", statement=statement) >= 1
    assert value(jobs, "rowcall_worker_slots", kind="async") == 200
    assert value(jobs, "rowcall_worker_slots", kind="sync") == 16
    assert value(jobs, "rowcall_worker_slots_used") == 0
    assert value(jobs, "rowcall_fence_rejected_total") == 0
    assert value(jobs, "process_resident_memory_bytes") > 10_000_000
    assert value(jobs, "rowcall_build_info", release=version("rowcall"), deployed_version="2031-05-04.3f2a9c1") == 1
    assert value(calls, "rowcall_build_info", release=version("rowcall"), deployed_version="") == 1
    assert not [labels for _, labels in (*calls, *jobs) if "acme" in dict(labels).values()], "no tenant's name"


async def test_what_waits_and_who_could_run_it_is_told_to_who_scales(services: Services) -> None:
    """By the gateway, of which there is one while there is no worker; and by both when there is."""
    gateway = services.start("rowcall-gateway", *GATEWAY)
    address = await asyncio.to_thread(gateway.address)
    ops = Ops(gateway)
    async with grpc.aio.insecure_channel(address) as channel:
        for _ in range(6):
            await stub(channel).Run(RunRequest(work=Duration(seconds=3)), timeout=20, metadata=tenant("acme", NOW))

        async def scale(wanted: Callable[[Any], bool], of: Ops = ops) -> bool:
            status, page = await of.json("/scale/probe")
            return status == 200 and wanted(page)

        await until(lambda: scale(lambda page: page["ready"] == 6 and page["slots"] == 0), every=0.2)
        samples = await ops.samples()
        assert value(samples, "rowcall_queue_depth", queue="probe", state="ready") == 6
        assert 0 < value(samples, "rowcall_queue_oldest_age_seconds", queue="probe") < 60

        worker = services.start("rowcall-worker", *WORKER, "--slots", "4", "--queue", "probe")
        await asyncio.to_thread(worker.ready)
        await until(lambda: scale(lambda page: page["slots"] == 4 and page["running"] > 0), seconds=40, every=0.2)
        await until(lambda: scale(lambda page: page["slots"] == 4, Ops(worker)), every=0.2)
        busy = await Ops(worker).samples()
        assert value(busy, "rowcall_worker_slots", kind="async") == 4
        await until(lambda: scale(lambda page: page["ready"] == page["running"] == 0), seconds=40, every=0.2)
    assert (await ops.json("/scale/nosuch"))[0] == 404


async def test_it_is_ready_until_it_drains_and_ends_in_time(services: Services) -> None:
    process = services.start("rowcall", *SERVE, "--drain-notice", "3s")
    await asyncio.to_thread(process.ready)
    ops = Ops(process)

    async def ready(wanted: int) -> bool:
        return (await ops.page("/readyz"))[0] == wanted

    await until(lambda: ready(200), every=0.1)
    _, page = await ops.json("/readyz")
    assert page["ready"] is True
    assert page["services"]["gateway"]["checks"] == {"shard a": "ok", "shard b": "ok", "catalogue": "ok"}
    assert page["services"]["worker"]["checks"] == {"shard a": "ok", "shard b": "ok"}
    samples = await ops.samples()
    assert value(samples, "rowcall_ready", service="gateway", check="ready") == 1
    silent = socket.create_connection((HERE, ops.port()))
    process.process.send_signal(signal.SIGTERM)
    await until(lambda: ready(503), every=0.1)
    _, page = await ops.json("/readyz")
    assert page["services"]["gateway"]["reason"] == "draining"
    assert (await ops.page("/healthz"))[0] == 200
    assert await asyncio.to_thread(process.process.wait, END_SECONDS) == 0, "".join(process.log)
    silent.close()


async def test_while_no_shard_answers_it_is_not_ready_and_names_them(
    restartable_cluster: RestartableCluster,
) -> None:
    with ExitStack() as stack:
        process = Services(restartable_cluster, stack).start("rowcall-gateway", *GATEWAY)
        await asyncio.to_thread(process.ready)
        ops = Ops(process)

        async def standing(wanted: bool) -> bool:
            _, page = await ops.json("/readyz")
            return page["ready"] is wanted

        await until(lambda: standing(True), every=0.1)
        restartable_cluster.postgres.stop()
        await until(lambda: standing(False), seconds=40, every=0.1)
        _, page = await ops.json("/readyz")
        assert page["services"]["gateway"]["reason"] == "no shard can be served"
        assert set(page["services"]["gateway"]["checks"].values()) != {"ok"}
        restartable_cluster.postgres.start()
        await until(lambda: standing(True), seconds=40, every=0.1)


@pytest.mark.parametrize("program", ["rowcall-gateway", "rowcall-worker", "rowcall"])
def test_a_port_that_is_taken_is_told_at_the_start(services: Services, program: str) -> None:
    with socket.create_server((HERE, 0)) as taken:
        where = f"{HERE}:{taken.getsockname()[1]}"
        serving = ("serve", "--listen", f"{HERE}:0") if program == "rowcall" else ()
        process = services.start(program, *serving, "--ops-listen", where)
        assert process.process.wait(END_SECONDS) == 1
        assert process.all_gone()
    assert f"cannot listen on {where}: is the address this machine's, and the port free?" in "".join(process.log)
    assert "Traceback" not in "".join(process.log)


async def test_each_of_several_processes_has_a_port_of_its_own(services: Services) -> None:
    port = free_port(2)
    process = services.start("rowcall-worker", "--processes", "2", "--ops-listen", str(port))
    await asyncio.to_thread(process.ready)
    for number in (port, port + 1):
        ops = Ops(process, number)
        assert (await ops.page("/healthz")) == (200, "alive\n")
        assert value(await ops.samples(), "rowcall_worker_slots", kind="sync") == 16
    assert await asyncio.to_thread(process.end) == 0
