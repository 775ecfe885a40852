"""A handler that forks: its child ends when it comes back, and is never taken for the worker; its parent is unharmed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.queue.model import JobRow
from rowcall.v1.job_pb2 import JobState
from tests.fix_services import ServiceProcess, Services
from tests.fix_worker import Calls
from tests.support.waiting import until

SERVICER = '''
import asyncio
import os
import sys
import time
from pathlib import Path

from rowcall.probe.v1.probe_pb2 import EchoResponse, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceServicer, add_ProbeServiceServicer_to_server
from rowcall_worker import finished

FOLDER = Path(__file__).parent


def ended(pid):
    """What a child ended with; it is killed where it does not."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return f"exit {os.waitstatus_to_exitcode(status)}"
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "lives"


class Forks(ProbeServiceServicer):
    async def Echo(self, request, context):
        how = request.payload.decode()
        answer = EchoResponse(payload=request.payload)
        if how == "beside":
            while not (FOLDER / "stop").exists():
                with (FOLDER / "steps").open("a") as file:
                    file.write(f"{os.getpid()} ")
                await asyncio.sleep(0)
            return answer
        if how == "callback":
            context.add_done_callback(lambda _: setattr(self, "child", os.fork()))
            return answer
        if how == "wait":
            return EchoResponse(payload=(await asyncio.to_thread(ended, self.child)).encode())
        if how == "lives on" and (FOLDER / "child").exists():
            return answer
        woken = asyncio.get_running_loop().create_future()
        if how == "task":
            async def fork():
                return os.fork()

            child = await asyncio.get_running_loop().create_task(fork())
        elif how == "thread":
            child = await asyncio.to_thread(os.fork)
        else:
            child = os.fork()
        if child == 0:
            if how == "lives on":
                os.close(1)
                os.close(2)
                time.sleep(300)
            if how == "exit":
                sys.exit(3)
            if how == "raise":
                raise ValueError("in the child")
            if how == "await":
                await asyncio.sleep(0)
            if how == "await something":
                await woken
            if how == "progress":
                try:
                    context.progress(0.5)
                except RuntimeError:
                    os._exit(9)
            return answer
        if how == "lives on":
            (FOLDER / "written").write_text(str(child))
            (FOLDER / "written").rename(FOLDER / "child")
            await asyncio.sleep(300)
        return EchoResponse(payload=(await asyncio.to_thread(ended, child)).encode())

    def Run(self, request, context):
        how = request.payload.decode()
        child = os.fork()
        if child == 0:
            if how == "exit":
                sys.exit(3)
            if how == "raise":
                raise ValueError("in the child")
            if how == "transaction":
                with context.transaction():
                    os._exit(8)
            return finished(RunResponse())
        return finished(RunResponse(payload=ended(child).encode()))


def register(worker):
    add_ProbeServiceServicer_to_server(Forks(), worker)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the servicer is, and what it writes; its child that lives on is killed."""
    (tmp_path / "forking.py").write_text(SERVICER)
    yield tmp_path
    child = tmp_path / "child"
    if child.exists():
        os.kill(int(child.read_text()), signal.SIGKILL)


def forking(services: Services, folder: Path, *arguments: str) -> ServiceProcess:
    # Before what the worker itself is run from, where that is not what is installed.
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return services.worker("--servicer", "forking:register", "--no-probe", *arguments, PYTHONPATH=path)


def said(row: JobRow) -> str:
    """What the parent said of its child."""
    assert row.response is not None, row.error
    if row.method.endswith("Run"):
        return RunResponse.FromString(row.response).payload.decode()
    return EchoResponse.FromString(row.response).payload.decode()


async def test_a_child_ends_when_it_comes_back(calls: Calls, services: Services, folder: Path) -> None:
    """By whichever way, and before anything else of the worker runs in it."""
    worker = forking(services, folder)
    await asyncio.to_thread(worker.ready)
    beside = await calls.submit("Echo", EchoRequest(payload=b"beside"))
    await until((folder / "steps").exists)
    found: dict[tuple[str, str], str] = {}
    attempts = []
    for how in (
        "exit",
        "return",
        "raise",
        "await",
        "await something",
        "task",
        "thread",
        "progress",
        "callback",
        "wait",
    ):
        row = await calls.done(await calls.submit("Echo", EchoRequest(payload=how.encode())))
        found["async", how] = said(row)
        attempts.append(row.attempt)
    for how in ("exit", "return", "raise", "transaction"):
        row = await calls.done(await calls.submit("Run", RunRequest(payload=how.encode())))
        found["thread", how] = said(row)
        attempts.append(row.attempt)
    (folder / "stop").touch()
    row = await calls.done(beside)

    assert found == {
        ("async", "exit"): "exit 3",
        ("async", "return"): "exit 0",
        ("async", "raise"): "exit 1",
        ("async", "await"): "exit 1",
        ("async", "await something"): "exit 1",
        ("async", "task"): "exit 1",
        ("async", "thread"): "exit 0",
        ("async", "progress"): "exit 9",
        ("async", "callback"): "callback",
        ("async", "wait"): "exit 0",
        ("thread", "exit"): "exit 3",
        ("thread", "return"): "exit 0",
        ("thread", "raise"): "exit 1",
        ("thread", "transaction"): "exit 1",
    }
    assert {*attempts, row.attempt} == {1}
    assert set((folder / "steps").read_text().split()) == {str(worker.process.pid)}, "no step of another job in a child"
    assert await asyncio.to_thread(worker.end) == 0
    log = "".join(worker.log)
    assert "came back into the worker, and was ended" in log
    assert '"level": "error"' not in log


@pytest.mark.straight("through a pooler a killed worker is found when its lease is over")
async def test_a_dead_workers_jobs_are_ready_again_although_a_child_of_its_lives_on(
    calls: Calls, services: Services, folder: Path
) -> None:
    """It has the worker's sockets, and a session that stays open stands for a worker that lives."""
    worker = forking(services, folder, "--lease", "60s")
    await asyncio.to_thread(worker.ready)
    job = await calls.submit("Echo", EchoRequest(payload=b"lives on"))
    await until((folder / "child").exists)
    os.kill(worker.process.pid, signal.SIGKILL)
    second = forking(services, folder, "--lease", "60s")
    await asyncio.to_thread(second.ready)
    row = await calls.done(job, seconds=20)
    assert (row.state, row.lost) == (JobState.JOB_STATE_SUCCEEDED, 1)
