"""`rowcall dev` as a developer runs it: a process that answers, ends when told to, and keeps its data."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import psutil
import psycopg
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from rowcall.ending import MARGIN
from rowcall.errors import grpc_code, status_of
from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from rowcall.v1 import job_pb2
from rowcall_standalone.dev import GRACE
from rowcall_standalone.serving import wait_until_serving
from tests.fix_commands import Ran, Running
from tests.fix_dev import CHANNEL_OPTIONS, Dev
from tests.support.collector import Collector

Start = Callable[..., Dev]
Rowcall = Callable[..., Ran]
JOBS_BY_TENANT = "select tenant, count(*) from rowcall.jobs where tenant like %s group by tenant"


def echo(address: str, payload: bytes, *metadata: tuple[str, str], timeout: float = 20) -> tuple[bytes, str]:
    """One Echo; returns the payload and the name of the job."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = probe_pb2_grpc.ProbeServiceStub(channel)
        answer, call = stub.Echo.with_call(
            probe_pb2.EchoRequest(payload=payload), timeout=timeout, metadata=metadata or None
        )
        trailers = dict(call.trailing_metadata() or ())
        return answer.payload, str(trailers["rowcall-operation"])


def submit_run(address: str, work: int) -> str:
    """Submits some seconds of work without waiting for it; returns its operation."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = probe_pb2_grpc.ProbeServiceStub(channel)
        request = probe_pb2.RunRequest(work=Duration(seconds=work))
        return stub.Run(request, timeout=20, metadata=(("prefer", "wait=0"),)).name


def await_state(address: str, name: str, state: job_pb2.JobState.ValueType) -> None:
    """Waits until an operation is seen in a state."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = operations_pb2_grpc.OperationsStub(channel)
        seen = job_pb2.JobMetadata()
        deadline = time.monotonic() + 20
        while seen.state != state:
            assert time.monotonic() < deadline, seen
            found = stub.GetOperation(operations_pb2.GetOperationRequest(name=name), timeout=10)
            found.metadata.Unpack(seen)


def left_of(process: psutil.Process, children: list[psutil.Process]) -> list[psutil.Process]:
    """Which of a process's family still run a while after its end: orphans get a moment to notice."""
    _, alive = psutil.wait_procs([process, *children], timeout=15)
    return [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def family(dev: Dev) -> tuple[psutil.Process, list[psutil.Process]]:
    process = psutil.Process(dev.running.process.pid)
    return process, process.children(recursive=True)


async def test_it_answers_over_reflection_health_and_the_queue(standing_dev: Dev) -> None:
    async with standing_dev.channel() as channel:
        await wait_until_serving(channel, standing_dev.address, timedelta(seconds=10))
        stub = probe_pb2_grpc.ProbeServiceStub(channel)
        answer = await stub.Echo(probe_pb2.EchoRequest(payload=b"hello"), timeout=20)
    assert (answer.payload, answer.attempt) == (b"hello", 1)

    reflection = ProtoReflectionDescriptorDatabase(grpc.insecure_channel(standing_dev.address, options=CHANNEL_OPTIONS))
    assert {
        "google.longrunning.Operations",
        "grpc.health.v1.Health",
        "rowcall.probe.v1.ProbeService",
        "rowcall.v1.AccessService",
        "rowcall.v1.ActionService",
        "rowcall.v1.AdmissionService",
        "rowcall.v1.AuditService",
        "rowcall.v1.CatalogueService",
        "rowcall.v1.ErrorService",
        "rowcall.v1.JobService",
        "rowcall.v1.QueueService",
        "rowcall.v1.TenantService",
        "rowcall.v1.WorkerService",
    } <= set(reflection.get_services())


def test_the_tenant_is_what_the_caller_says_or_default(standing_dev: Dev) -> None:
    address = standing_dev.address

    assert echo(address, b"1")[1].startswith("tenants/default/operations/")
    assert echo(address, b"2", ("rowcall-tenant", "acme"))[1].startswith("tenants/acme/operations/")
    with pytest.raises(grpc.RpcError) as refused:
        echo(address, b"3", ("rowcall-tenant", "Not A Tenant"))
    assert grpc_code(status_of(refused.value)) is grpc.StatusCode.INVALID_ARGUMENT


async def test_two_hundred_calls_of_twenty_tenants_are_answered_and_lie_on_their_shards(standing_dev: Dev) -> None:
    tenants = [f"twenty-{number}" for number in range(20)]

    async with standing_dev.channel() as channel:
        stub = probe_pb2_grpc.ProbeServiceStub(channel)

        async def call(number: int) -> None:
            payload = f"payload {number}".encode()
            metadata = (("rowcall-tenant", tenants[number % 20]),)
            answer = await stub.Echo(probe_pb2.EchoRequest(payload=payload), timeout=30, metadata=metadata)
            assert answer.payload == payload

        await asyncio.gather(*(call(number) for number in range(200)))

    found: dict[str, Counter[str]] = {}
    for shard in ("a", "b"):
        with psycopg.connect(standing_dev.shard_dsn(shard)) as connection:
            rows = connection.execute(JOBS_BY_TENANT, ["twenty-%"]).fetchall()
            found[shard] = Counter({str(tenant): int(count) for tenant, count in rows})
            routes = connection.execute("select tenant from rowcall.tenant_route where tenant like 'twenty-%'")
            assert set(found[shard]) == {tenant for (tenant,) in routes}
    assert all(found.values()), "twenty tenants on one shard"
    assert not set(found["a"]) & set(found["b"])
    assert found["a"] + found["b"] == Counter(dict.fromkeys(tenants, 10))


def test_a_data_directory_has_one_dev_at_a_time(standing_dev: Dev, rowcall_process: Rowcall) -> None:
    ran = rowcall_process("dev", "--listen", "127.0.0.1:0", "--data-dir", str(standing_dev.data_dir))

    assert ran.code == 1
    assert f"belongs to another running process (pid {standing_dev.running.process.pid})" in ran.err
    assert "Traceback" not in ran.err
    assert echo(standing_dev.address, b"undisturbed")[0] == b"undisturbed"


def test_data_outlives_a_drain_and_a_kill(dev: Start, rowcall: Rowcall) -> None:
    first = dev("--shards", "2")
    payload, kept = echo(first.address, b"kept")
    assert payload == b"kept"
    finished = submit_run(first.address, 3)
    await_state(first.address, finished, job_pb2.JOB_STATE_RUNNING)

    assert first.running.end(signal.SIGINT) == 0

    second = dev()  # as many shards as there are
    shown = rowcall("jobs", "show", kept, "--full", "--json", "--address", second.address)
    assert shown.code == 0, shown.err
    assert shown.json["state"] == "JOB_STATE_SUCCEEDED"
    assert shown.json["response"]["payload"] == "a2VwdA=="
    job = rowcall("jobs", "show", finished, "--json", "--address", second.address).json
    assert (job["state"], job["attempt"]) == ("JOB_STATE_SUCCEEDED", 1), "it was not let finish"

    process, children = family(second)
    second.running.process.kill()
    second.running.wait()
    assert left_of(process, children) == []

    third = dev()
    assert rowcall("jobs", "show", kept, "--address", third.address).code == 0
    assert echo(third.address, b"again")[0] == b"again"
    assert third.running.end() == 0


def test_a_call_is_one_trace_of_gateway_and_worker(dev: Start, collector: Collector) -> None:
    started = dev(OTEL_TRACES_SAMPLER="always_on", **collector.variables)

    assert echo(started.address, b"hello")[0] == b"hello"
    assert started.running.end() == 0

    assert collector.chains() == {
        ("rowcall-dev: rowcall.probe.v1.ProbeService/Echo", "rowcall-dev: send probe", "rowcall-dev: process probe")
    }


def test_a_second_signal_ends_it_at_once(dev: Start) -> None:
    first = dev()
    await_state(first.address, submit_run(first.address, 60), job_pb2.JOB_STATE_RUNNING)
    process, children = family(first)
    first.running.process.send_signal(signal.SIGTERM)
    first.running.says("SIGTERM: draining")

    started = time.monotonic()
    assert first.running.end() == 128 + signal.SIGTERM
    assert time.monotonic() - started < 3
    assert left_of(process, children) == []


def test_it_ends_when_its_postgres_does(dev: Start) -> None:
    started = dev()
    process, children = family(started)
    postmaster = next(child for child in children if child.name() == "postgres" and child.ppid() == process.pid)

    postmaster.kill()

    assert started.running.wait() == 1
    assert f"The embedded Postgres (pid {postmaster.pid}) ended by itself" in started.running.err
    assert left_of(process, children) == []


def test_a_signal_during_the_start_ends_it(running: Callable[..., Running], dev_dir: Path) -> None:
    starting = running("dev", "--listen", "127.0.0.1:0", "--data-dir", str(dev_dir))
    starting.says("migrated")
    process = psutil.Process(starting.process.pid)
    children = process.children(recursive=True)

    assert starting.end() == 0
    assert starting.first_line() == ""
    assert left_of(process, children) == []


def test_a_shard_is_added_and_none_is_taken_away(
    dev: Start, rowcall: Rowcall, rowcall_process: Rowcall, dev_dir: Path
) -> None:
    first = dev("--shards", "1")
    _, name = echo(first.address, b"on a")
    assert first.running.end() == 0

    second = dev("--shards", "2")
    assert rowcall("jobs", "show", name, "--address", second.address).code == 0
    for number in range(8):
        echo(second.address, b"new", ("rowcall-tenant", f"new-{number}"))
    with psycopg.connect(second.shard_dsn("b")) as connection:
        assert connection.execute("select count(*) > 0 from rowcall.jobs").fetchone() == (True,)
    assert second.running.end() == 0

    refused = rowcall_process("dev", "--listen", "127.0.0.1:0", "--data-dir", str(dev_dir), "--shards", "1")
    assert refused.code == 1
    assert "holds 2 shards (a, b), and 1 were asked for: tenants live on b" in refused.err
    assert "Traceback" not in refused.err


def test_only_loopback_is_listened_on(rowcall: Rowcall, tmp_path: Path) -> None:
    for address in ("0.0.0.0:50051", "[::]:50051", "192.0.2.1:50051"):
        ran = rowcall("dev", "--listen", address, "--data-dir", str(tmp_path / "data"))
        assert ran.code == 2
        assert "is not a loopback address" in ran.err
        assert "ssh -L" in ran.err
    assert not (tmp_path / "data").exists()


def test_a_taken_port_is_refused_and_nothing_is_left_running(rowcall_process: Rowcall, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = rowcall_process("dev", "--listen", f"127.0.0.1:{port}", "--data-dir", str(tmp_path / "data"))

    assert ran.code == 1
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use. Stop the process" in ran.err
    assert not (tmp_path / "data").exists(), "Postgres was started"


SERVICER = """
import os

import psycopg

from rowcall.ending import MARGIN
from rowcall.errors import grpc_code, status_of
from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc


class Shouting(probe_pb2_grpc.ProbeServiceServicer):
    async def Echo(self, request, context):
        if request.payload.startswith(b"as "):
            # What a statement of the servicer's own comes to, in its database or in another of the same server.
            database, _, statement = request.payload[len("as ") :].decode().partition(": ")
            try:
                with psycopg.connect(os.environ["MY_DSN"], dbname=database) as connection:
                    rows = connection.execute(statement)
                    said = str(rows.fetchone()) if rows.description else "done"
            except psycopg.Error as error:
                said = type(error).__name__ + " " + str(error).strip()
            return probe_pb2.EchoResponse(payload=said.encode())
        return probe_pb2.EchoResponse(payload=request.payload.upper())


def register(worker):
    probe_pb2_grpc.add_ProbeServiceServicer_to_server(Shouting(), worker)
"""


def test_a_servicer_of_the_working_directory_is_served_with_a_database_of_its_own(dev: Start, tmp_path: Path) -> None:
    (tmp_path / "shouting.py").write_text(SERVICER)

    started = dev("--servicer", "shouting:register", "--database", "MY_DSN=mine", cwd=tmp_path)

    assert echo(started.address, b"hello")[0] == b"HELLO"
    dsn = started.shard_dsn("a").rpartition("/")[0] + "/mine"
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select current_database()").fetchone() == ("mine",)

    # It owns that database, and is nobody in the system's.
    def said(database: str, statement: str) -> str:
        return echo(started.address, f"as {database}: {statement}".encode())[0].decode()

    assert said("mine", "create table page (a int)") == "done"
    assert said("mine", "select rolsuper from pg_roles where rolname = current_user") == "(False,)"
    for database in ("shard_a", "catalogue"):
        assert f'permission denied for database "{database}"' in said(database, "select 1")


def test_its_gateway_and_worker_have_their_own_roles_and_no_more(standing_dev: Dev) -> None:
    """In every session of theirs, the listening ones and the lease's too; the passwords are others at each start."""
    echo(standing_dev.address, b"1", ("rowcall-tenant", "of-a-role"))
    with psycopg.connect(standing_dev.shard_dsn("a")) as connection:
        sessions = connection.execute(
            """
            select distinct usename::text
            from pg_stat_activity
            where backend_type = 'client backend' and pid <> pg_backend_pid()
            """
        ).fetchall()
        roles = connection.execute(
            """
            select m.member::regrole::text, m.roleid::regrole::text, r.rolsuper or r.rolcreaterole or r.rolcreatedb
            from pg_auth_members m join pg_roles r on r.oid = m.member
            where r.rolname like 'rowcall%'
            order by 1
            """
        ).fetchall()
        public = connection.execute(
            "select has_database_privilege('public', datname, 'connect') from pg_database where datname in ('catalogue', 'shard_a', 'shard_b')"
        ).fetchall()
    assert sorted(sessions) == [("rowcall_gateway_login",), ("rowcall_worker_login",)]
    assert roles == [
        ("rowcall_gateway_login", "rowcall_gateway", False),
        ("rowcall_worker_login", "rowcall_worker", False),
    ]
    assert public == [(False,)] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--database", "MY_DSN=shard_a"), "'shard_a' is the system's own"),
        (("--database", "nonsense"), "'nonsense' is not VARIABLE=NAME"),
        (("--listen", "nonsense"), "is not an address"),
        (("--shards", "0"), "--shards"),
        (("--servicer", "my_package"), "'my_package' is not MODULE:FUNCTION"),
        (("--image", "nowhere.binpb"), "'nowhere.binpb' does not exist"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_started(
    rowcall: Rowcall, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    ran = rowcall("dev", "--data-dir", str(tmp_path / "data"), *arguments)

    assert ran.code == 2
    assert message in " ".join(ran.err.split())
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--servicer", "nowhere:register"), "there is no module nowhere"),
        (("--image", __file__), "not a descriptor image"),
        (("--postgres-bin", "/nowhere"), "/nowhere"),
    ],
)
def test_what_cannot_be_started_is_named(
    rowcall_process: Rowcall, dev_dir: Path, arguments: tuple[str, ...], message: str
) -> None:
    ran = rowcall_process("dev", "--listen", "127.0.0.1:0", "--data-dir", str(dev_dir), *arguments)

    assert ran.code == 1
    assert message in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_spans_that_it_cannot_send_are_refused(rowcall_process: Rowcall, dev_dir: Path) -> None:
    ran = rowcall_process(
        "dev", "--listen", "127.0.0.1:0", "--data-dir", str(dev_dir),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_TRACES_EXPORTER="zipkin",
    )  # fmt: skip

    assert ran.code == 1
    assert "OTEL_TRACES_EXPORTER is 'zipkin'; this process has otlp and none" in ran.err
    assert "Traceback" not in ran.err


def test_a_data_directory_of_another_schema_is_named_with_what_to_do(
    dev: Start, rowcall_process: Rowcall, dev_dir: Path
) -> None:
    first = dev()
    with psycopg.connect(first.shard_dsn("a")) as connection:
        connection.execute("update rowcall_migrations.applied set checksum = 'another' where name = 'pre/0002_tables'")
    assert first.running.end() == 0

    ran = rowcall_process("dev", "--listen", "127.0.0.1:0", "--data-dir", str(dev_dir))

    assert ran.code == 1
    assert f"Of the databases in {dev_dir}, shard a cannot be migrated: pre/0002_tables" in ran.err
    assert "Or remove that directory" in ran.err
    assert "Traceback" not in ran.err


STUBBORN = """
import asyncio
import sys
import threading
import time
from contextlib import suppress

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc


class Stubborn(probe_pb2_grpc.ProbeServiceServicer):
    async def Echo(self, request, context):
        if request.payload == b"exits":
            self.kept = asyncio.create_task(asyncio.to_thread(int))
            self.kept.add_done_callback(lambda _: sys.exit(7))
            await asyncio.sleep(0.1)
            return probe_pb2.EchoResponse(payload=b"goes on")
        threading.Thread(target=time.sleep, args=(3600,)).start()
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    def Await(self, request, context):
        time.sleep(3600)


def register(worker):
    probe_pb2_grpc.add_ProbeServiceServicer_to_server(Stubborn(), worker)
"""


def test_it_ends_whatever_handlers_leave_running(dev: Start, tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    started = dev("--servicer", "stubborn:register", "--workers", "2", cwd=tmp_path)
    for _ in range(3):
        assert echo(started.address, b"exits")[0] == b"goes on"
    with grpc.insecure_channel(started.address) as channel:
        stub = probe_pb2_grpc.ProbeServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.Echo(probe_pb2.EchoRequest(), timeout=1)
        with pytest.raises(grpc.RpcError):
            stub.Await(probe_pb2.AwaitRequest(), timeout=1)
    began = time.monotonic()
    assert started.running.end() == 0
    assert time.monotonic() - began < GRACE.total_seconds() + MARGIN.total_seconds()
