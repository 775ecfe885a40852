"""A worker ends when it is told to, whatever its handlers leave running; and handlers that try to end it do not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from google.rpc.code_pb2 import Code

from rowcall.ending import MARGIN
from rowcall.errors import our_reason, read_envelope
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.queue.model import JobRow
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from tests.fix_cluster import RestartableCluster
from tests.fix_services import ServiceProcess, Services
from tests.fix_worker import Calls, error_of
from tests.support.waiting import until

GRACE = 1
SOON = 5.0
"""Seconds beyond the grace: to hand back, to leave, and to clean up, on a machine that has other things to do."""

SERVICER = '''
import asyncio
import ctypes
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

from rowcall.probe.v1.probe_pb2 import AwaitResponse, EchoResponse, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceServicer, add_ProbeServiceServicer_to_server
from rowcall_worker import finished

FOLDER = Path(__file__).parent


async def swallow():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


async def leave(error):
    raise error


def stop(error):
    raise error


class Ends(ProbeServiceServicer):
    async def Echo(self, request, context):
        """What goes on when it is told to end; and what tries to end the worker."""
        loop = asyncio.get_running_loop()
        what = request.payload.decode()
        match what:
            case "swallows":
                (FOLDER / what).touch()
                await swallow()
            case "leaves a task that swallows":
                self.kept = loop.create_task(swallow())
            case "leaves a thread":
                threading.Thread(target=time.sleep, args=(3600,)).start()
            case "keeps all threads of asyncio":
                for _ in range(64):
                    loop.run_in_executor(None, time.sleep, 3600)
            case "blocks the loop":
                (FOLDER / what).touch()
                while True:
                    pass
            case "holds the interpreter lock":
                (FOLDER / what).touch()
                try:
                    await asyncio.sleep(3600)
                finally:
                    ctypes.PyDLL(None).sleep(3600)
            case "task exits":
                self.kept = loop.create_task(leave(SystemExit(7)))
                await asyncio.sleep(0.1)
            case "task is interrupted":
                self.kept = loop.create_task(leave(KeyboardInterrupt()))
                await asyncio.sleep(0.1)
            case "callback of the loop exits":
                loop.call_soon(sys.exit, 7)
                loop.call_soon_threadsafe(sys.exit, 7)
                loop.call_later(0.05, sys.exit, 7)
                await asyncio.sleep(0.1)
            case "done callback exits":
                context.add_done_callback(lambda _: sys.exit(7))
            case "done callback of a task exits":
                self.kept = loop.create_task(asyncio.sleep(0))
                self.kept.add_done_callback(lambda _: sys.exit(7))
                await asyncio.sleep(0.1)
            case "loop is stopped":
                loop.stop()
                await asyncio.sleep(0.1)
            case "SystemExit":
                sys.exit(7)
            case "GeneratorExit":
                raise GeneratorExit
            case "KeyboardInterrupt":
                raise KeyboardInterrupt
            case "CancelledError":
                raise asyncio.CancelledError
            case "thread exits":
                await asyncio.to_thread(sys.exit, 7)
            case "ends a child":
                child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
                child.start()
                child.terminate()
                await asyncio.to_thread(child.join)
                return EchoResponse(payload=str(child.exitcode).encode())
        return EchoResponse(payload=request.payload, worker=str(os.getpid()))

    def Run(self, request, context):
        match request.payload.decode():
            case "done callback exits":
                context.add_callback(lambda: sys.exit(7))
            case "SystemExit":
                sys.exit(7)
            case "GeneratorExit":
                raise GeneratorExit
        return finished(RunResponse(payload=request.payload, worker=str(os.getpid())))

    def Await(self, request, context):
        (FOLDER / "sleeps in a thread").touch()
        time.sleep(3600)


def register(worker):
    add_ProbeServiceServicer_to_server(Ends(), worker)
'''


Start = Callable[..., ServiceProcess]


@pytest.fixture
def worker(services: Services, tmp_path: Path) -> Start:
    """Starts a worker with that servicer."""
    (tmp_path / "ends_servicer.py").write_text(SERVICER)

    def start(*arguments: str, **variables: str) -> ServiceProcess:
        started = services.worker(
            *("--servicer", "ends_servicer:register", "--grace", f"{GRACE}s", *arguments),
            PYTHONPATH=os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))),
            ROWCALL_PROBE="false",
            **variables,
        )
        started.ready()
        return started

    return start


async def end(worker: ServiceProcess) -> tuple[int, float]:
    """Tells it to end: with what it did, and after how many seconds."""
    began = time.monotonic()
    code = await asyncio.to_thread(worker.end)
    return code, time.monotonic() - began


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_a_handler_that_swallows_its_cancellation_does_not_keep_the_worker(
    calls: Calls, worker: Start, tmp_path: Path, processes: str
) -> None:
    ending = await asyncio.to_thread(worker, "--processes", processes)
    job = await calls.submit("Echo", EchoRequest(payload=b"swallows"))
    await until((tmp_path / "swallows").exists)
    code, seconds = await end(ending)
    assert code == 0
    assert seconds < GRACE + SOON, "".join(ending.log)
    row = await calls.row(job)
    assert (row.state, row.attempt) == (JobState.JOB_STATE_READY, 0)
    assert [each.outcome for each in row.attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_RELEASED]


@pytest.mark.parametrize(
    "what", ["leaves a task that swallows", "leaves a thread", "keeps all threads of asyncio", "sleeps in a thread"]
)
async def test_what_handlers_leave_running_does_not_keep_the_worker(
    calls: Calls, worker: Start, tmp_path: Path, what: str
) -> None:
    # Its sign of life must not wait for threads that handlers have taken.
    ending = await asyncio.to_thread(worker, ROWCALL_HEALTH_FILE=str(tmp_path / "alive"))
    if what == "sleeps in a thread":
        await calls.submit("Await", AwaitRequest())
        await until((tmp_path / what).exists)
    else:
        await calls.done(await calls.submit("Echo", EchoRequest(payload=what.encode())))
    code, seconds = await end(ending)
    assert code == 0
    assert seconds < GRACE + SOON, "".join(ending.log)
    assert not (tmp_path / "alive").exists()


async def test_what_cannot_be_ended_in_order_is_ended(calls: Calls, worker: Start, tmp_path: Path) -> None:
    """Two workers at once, for each end takes as long as one may."""
    ending = {}
    for what in ("blocks the loop", "holds the interpreter lock"):
        # What has stopped the one before claims nothing any more.
        ending[what] = await asyncio.to_thread(worker)
        await calls.submit("Echo", EchoRequest(payload=what.encode()))
        await until((tmp_path / what).exists)
    (blocked, after), (held, also_after) = await asyncio.gather(*(end(each) for each in ending.values()))
    assert max(after, also_after) < GRACE + MARGIN.total_seconds() + SOON
    assert blocked == 128 + signal.SIGTERM
    [told] = [line for line in ending["blocks the loop"].log if "the end takes too long" in line]
    assert "ends_servicer.py" in told, "it says where it was"
    # Nothing of Python's can tell of the other one.
    assert held == 1


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A server that takes connections and answers nothing, as on a machine that hangs."""
    server = psutil.Process(pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.mark.straight("a pooler before the server would answer for it")
async def test_a_worker_and_a_gateway_end_whose_databases_hang(restartable_cluster: RestartableCluster) -> None:
    with ExitStack() as stack:
        services = Services(restartable_cluster, stack)
        worker, gateway = services.worker("--grace", f"{GRACE}s"), services.gateway(ROWCALL_GRACE=f"{GRACE}s")
        await asyncio.to_thread(worker.ready)
        await asyncio.to_thread(gateway.ready)
        with frozen(restartable_cluster.postgres.server.pid):
            ends = await asyncio.gather(end(worker), end(gateway))
    for code, seconds in ends:
        assert code in (0, 128 + signal.SIGTERM)
        assert seconds < GRACE + MARGIN.total_seconds() + SOON


@pytest.mark.parametrize(
    ("method", "what"),
    [
        *(
            ("Echo", what)
            for what in (
                "task exits",
                "task is interrupted",
                "callback of the loop exits",
                "done callback exits",
                "done callback of a task exits",
                "loop is stopped",
            )
        ),
        ("Run", "done callback exits"),
    ],
)
async def test_what_a_handler_leaves_behind_does_not_end_the_worker(
    calls: Calls, worker: Start, method: str, what: str
) -> None:
    going = await asyncio.to_thread(worker)
    pid = await ask(calls, "Echo", "who?")
    assert await ask(calls, method, what) == pid
    # The same process serves on, and one that is told to end does so.
    assert await ask(calls, "Echo", "who?") == pid
    code, seconds = await end(going)
    assert code == 0
    assert seconds < GRACE + SOON
    told = "a callback of the handler's raised" if what == "done callback exits" else "it goes on"
    assert any(told in line for line in going.log)


async def test_what_a_handler_raises_is_its_attempts_failure(calls: Calls, worker: Start) -> None:
    going = await asyncio.to_thread(worker)
    for method, what in (
        ("Echo", "SystemExit"),
        ("Echo", "GeneratorExit"),
        ("Echo", "KeyboardInterrupt"),
        ("Echo", "CancelledError"),
        ("Run", "SystemExit"),
        ("Run", "GeneratorExit"),
    ):
        row = await done(calls, method, what)
        status = error_of(row)
        info = read_envelope(status)
        assert info is not None
        assert (row.state, status.code) == (JobState.JOB_STATE_FAILED, Code.UNKNOWN)
        assert (our_reason(info), info.metadata["exception"]) == ("HANDLER_EXCEPTION", what)
    assert error_of(await done(calls, "Echo", "thread exits")).code == Code.UNKNOWN
    assert (await end(going))[0] == 0


async def test_a_child_that_a_handler_ends_is_not_the_worker(calls: Calls, worker: Start) -> None:
    """A forked child hears signals as any program does, and the worker hears nothing of them."""
    going = await asyncio.to_thread(worker)
    row = await done(calls, "Echo", "ends a child")
    assert EchoResponse.FromString(row.response or b"").payload == str(-signal.SIGTERM).encode()
    assert await ask(calls, "Echo", "who?") == going.process.pid
    assert not any("worker drains" in line for line in going.log)


async def done(calls: Calls, method: str, what: str) -> JobRow:
    """Makes a call, once; its row when it has ended."""
    request = EchoRequest(payload=what.encode()) if method == "Echo" else RunRequest(payload=what.encode())
    return await calls.done(await calls.submit(method, request, policy={"max_attempts": 1}))


async def ask(calls: Calls, method: str, what: str) -> int:
    """Makes a call; the process that has answered."""
    row = await done(calls, method, what)
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    response = EchoResponse if method == "Echo" else RunResponse
    return int(response.FromString(row.response or b"").worker)
