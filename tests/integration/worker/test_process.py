"""`rowcall-worker` as a process: its ready line, its signals, its refusals, a user's own job package, and kill -9."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from psycopg.conninfo import make_conninfo

from rowcall.catalogue.images import load_catalogue
from rowcall.probe.v1.probe_pb2 import AwaitRequest, AwaitResponse, EchoRequest
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker.probe import EXIT_CODE
from tests.fix_cluster import Cluster
from tests.fix_images import ImageBuilder
from tests.fix_services import END_SECONDS, Services
from tests.fix_worker import Calls
from tests.support.places import ROOT

ACME_PROTO = """\
syntax = "proto3";
package acme.greeting.v1;
import "rowcall/options/v1/job.proto";
service GreetingService {
  rpc Greet(GreetRequest) returns (GreetResponse) { option (rowcall.options.v1.job) = {queue: "greetings"}; }
}
message GreetRequest { string name = 1; }
message GreetResponse { string text = 1; }
"""
ACME_SERVICER = """\
from acme.greeting.v1 import greeting_pb2, greeting_pb2_grpc


class Greetings(greeting_pb2_grpc.GreetingServiceServicer):
    def Greet(self, request, context):
        return greeting_pb2.GreetResponse(text=f"Hello {request.name}, says {context.tenant}'s worker")


def register(worker):
    greeting_pb2_grpc.add_GreetingServiceServicer_to_server(Greetings(), worker)


def nothing(worker):
    pass
"""


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's job package: a folder to be put on PYTHONPATH, generated as a user generates it."""
    folder = tmp_path_factory.mktemp("acme")
    proto = folder / "acme" / "greeting" / "v1" / "greeting.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text(ACME_PROTO)
    for part in (folder / "acme", folder / "acme" / "greeting", proto.parent):
        (part / "__init__.py").touch()
    (folder / "acme_servicer.py").write_text(ACME_SERVICER)
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{ROOT / 'protos'}"),
            *(f"--python_out={folder}", f"--grpc_python_out={folder}", str(proto.relative_to(folder))),
        ],
        cwd=folder,
        check=True,
    )
    return folder


@pytest.mark.parametrize("with_image", [False, True])
async def test_a_users_servicer_is_served_with_or_without_its_image(
    calls: Calls, services: Services, acme: Path, build_image: ImageBuilder, *, with_image: bool
) -> None:
    image = build_image({"acme/greeting/v1/greeting.proto": ACME_PROTO})
    method = load_catalogue([image]).methods["acme.greeting.v1.GreetingService/Greet"]
    images = ("--image", str(image)) if with_image else ()
    worker = services.worker("--servicer", "acme_servicer:register", *images, PYTHONPATH=str(acme))
    await asyncio.to_thread(worker.ready)
    (job,) = await calls.submit_as(method.name, method.policy, [method.request_class(name="Ann")])
    row = await calls.done(job)
    assert row.queue == "greetings"
    assert row.response is not None
    assert "Hello Ann, says acme\\'s worker" in str(method.response_class.FromString(row.response))
    # The probe is served beside it.
    await calls.done(await calls.submit("Echo", EchoRequest()))
    assert await asyncio.to_thread(worker.end) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--servicer", "no_such_module:register"), "there is no module no_such_module"),
        (("--servicer", "acme_servicer:missing"), "has no function missing"),
        (("--servicer", "acme_servicer:nothing"), "registered nothing"),
        (("--servicer", "acme_servicer"), "is not module:function"),
        (("--no-probe",), "nothing to serve"),
        (
            ("--image", "/no/such/image.binpb", "--slots", "0"),
            "names what cannot be read: '/no/such/image.binpb' (No such file or directory)",
        ),
        (("--lease", "soon"), "is not a duration"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(
    services: Services, acme: Path, arguments: tuple[str, ...], told: str
) -> None:
    worker = services.worker(*arguments, PYTHONPATH=str(acme))
    assert worker.process.wait(END_SECONDS) == 2
    worker.end()
    log = "".join(worker.log)
    assert told in log
    assert "Traceback" not in log


def test_every_missing_setting_is_named(services: Services) -> None:
    worker = services.worker(ROWCALL_CATALOGUE="", ROWCALL_SHARDS="")
    assert worker.process.wait(END_SECONDS) == 2
    worker.end()
    log = "".join(worker.log)
    assert "ROWCALL_CATALOGUE (--catalogue) is not set" in log
    assert "ROWCALL_SHARDS (--shard) is not set" in log


def test_a_database_without_the_schema_is_refused(services: Services, cluster: Cluster) -> None:
    bare = make_conninfo(cluster.worker.catalogue, dbname="postgres")
    worker = services.worker(ROWCALL_SHARDS=json.dumps({"a": bare}))
    assert worker.process.wait(END_SECONDS) == 1
    worker.end()
    assert "rowcall migrate" in "".join(worker.log)


async def test_a_killed_worker_loses_nothing(calls: Calls, services: Services) -> None:
    first = services.worker("--lease", "1s")
    await asyncio.to_thread(first.ready)
    jobs = await calls.submit_many("Await", [AwaitRequest(payload=b"x", work=Duration(nanos=300_000_000))] * 12)
    await calls.until(jobs[0], lambda row: row.state == JobState.JOB_STATE_RUNNING)
    await asyncio.to_thread(first.kill)
    second = services.worker("--lease", "1s")
    await asyncio.to_thread(second.ready)
    rows = await calls.all_done(jobs)
    for row in rows:
        assert row.state == JobState.JOB_STATE_SUCCEEDED
        assert AwaitResponse.FromString(row.response or b"").attempt == 1
        assert [each.outcome for each in row.attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_LOST]
    assert await asyncio.to_thread(second.end) == 0


async def test_a_probe_ends_the_process_where_faults_are_allowed(calls: Calls, services: Services) -> None:
    worker = services.worker("--allow-faults", "--lease", "1s")
    await asyncio.to_thread(worker.ready)
    job = await calls.submit("Await", AwaitRequest(exit_process=True))
    assert await asyncio.to_thread(worker.process.wait, END_SECONDS) == EXIT_CODE
    row = await calls.row(job)
    assert (row.state, row.attempt) == (JobState.JOB_STATE_RUNNING, 1)


async def test_a_frozen_worker_comes_back_too_late(calls: Calls, services: Services) -> None:
    first = services.worker("--lease", "1s")
    await asyncio.to_thread(first.ready)
    job = await calls.submit("Await", AwaitRequest(work=Duration(seconds=1)))
    await calls.until(job, lambda row: row.state == JobState.JOB_STATE_RUNNING)
    first.process.send_signal(signal.SIGSTOP)
    second = services.worker("--lease", "1s")
    await asyncio.to_thread(second.ready)
    row = await calls.done(job)
    first.process.send_signal(signal.SIGCONT)
    # It serves again, under another identity.
    assert await asyncio.to_thread(second.end) == 0
    again = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert again.worker != row.worker
    assert (await calls.row(job)).response == row.response
    assert await asyncio.to_thread(first.end) == 0
    assert any("lease lost" in line or "late result dropped" in line for line in first.log)


async def test_sigterm_drains(calls: Calls, services: Services) -> None:
    worker = services.worker()
    await asyncio.to_thread(worker.ready)
    job = await calls.submit("Await", AwaitRequest(work=Duration(seconds=1)))
    await calls.until(job, lambda row: row.state == JobState.JOB_STATE_RUNNING)
    assert await asyncio.to_thread(worker.end, signal.SIGTERM) == 0
    assert (await calls.row(job)).state == JobState.JOB_STATE_SUCCEEDED


async def test_a_second_signal_ends_at_once(calls: Calls, services: Services) -> None:
    worker = services.worker("--grace", "60s", "--lease", "2s")
    await asyncio.to_thread(worker.ready)
    job = await calls.submit("Await", AwaitRequest(work=Duration(seconds=30)))
    await calls.until(job, lambda row: row.state == JobState.JOB_STATE_RUNNING)
    worker.process.send_signal(signal.SIGTERM)
    # It drains: it does not end by itself.
    with pytest.raises(subprocess.TimeoutExpired):
        await asyncio.to_thread(worker.process.wait, 1)
    assert await asyncio.to_thread(worker.end, signal.SIGTERM) == 128 + signal.SIGTERM
    heir = services.worker("--lease", "2s")
    await asyncio.to_thread(heir.ready)
    row = await calls.until(job, lambda row: bool(row.attempts))
    assert [each.outcome for each in row.attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_LOST]


async def test_a_worker_that_starts_before_its_database_waits_for_it(
    cluster: Cluster, calls: Calls, services: Services
) -> None:
    nowhere = "postgresql://127.0.0.1:1/nowhere?connect_timeout=2"
    worker = services.worker(
        ROWCALL_SHARDS=f'{{"down": "{nowhere}", "a": "{cluster.worker.shards["a"]}", "b": "{cluster.worker.shards["b"]}"}}'
    )
    await asyncio.to_thread(worker.ready)
    await calls.done(await calls.submit("Echo", EchoRequest()))
    assert await asyncio.to_thread(worker.end) == 0
    assert any("shard not joined, trying again" in line for line in worker.log)
