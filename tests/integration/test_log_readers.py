"""Whoever reads a service's log may stall, go away, or have a full disk: callers feel nothing, and the service ends in time.

What stops a program that waits for its reader is the one that stalls: it is tried with every program. The others are tried with
a service that is one process, and with all in the long form (`make chaos`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc.code_pb2 import Code

from rowcall.probe.v1.probe_pb2 import RunRequest, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from tests.fix_cluster import Cluster
from tests.fix_commands import environment
from tests.fix_gateway import Gateways, tenant
from tests.fix_services import END_SECONDS, READY_SECONDS
from tests.support.scale import scaled

READERS = ("stalled", "gone", "full disk")
FEWER = scaled(("stalled",), READERS)
"""For what differs from one that is tried with all of them in how many processes there are, and in nothing of its log."""
CALLS = 400
"""Each leaves a line of some 400 bytes: more than twice what a pipe holds."""


@contextmanager
def unread(how: str) -> Iterator[tuple[int, Callable[[], None]]]:
    """A standard error whose reader is so: its descriptor, and what is to be called when the program runs."""
    with ExitStack() as stack:
        if how == "full disk":
            descriptor = os.open("/dev/full", os.O_WRONLY)
            stack.callback(os.close, descriptor)
            yield descriptor, lambda: None
            return
        reader, writer = os.pipe()
        closed = stack.enter_context(ExitStack())
        closed.callback(os.close, reader)
        stack.callback(os.close, writer)
        yield writer, closed.close if how == "gone" else lambda: None


@contextmanager
def started(how: str, program: str, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program that is ready, with such a reader of its log; and what it said behind "ready"."""
    with (
        unread(how) as (stderr, runs),
        subprocess.Popen(
            [Path(sys.executable).with_name(program), *arguments],
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            process_group=0,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            watchdog = threading.Timer(READY_SECONDS, process.kill)
            watchdog.start()
            line = process.stdout.readline()
            watchdog.cancel()
            assert "ready" in line
            runs()
            yield process, line.partition("ready on ")[2].strip()
        finally:
            process.kill()


def call(address: str, request: RunRequest, prefer: str) -> list[int]:
    """Makes the calls, many at a time; the error codes of the operations that they are answered with, 0 for none."""
    with grpc.insecure_channel(address) as channel:
        run = ProbeServiceStub(channel).Run
        metadata = tenant("acme", ("prefer", prefer))
        answers = [run.future(request, timeout=END_SECONDS, metadata=metadata) for _ in range(CALLS)]
        return [answer.result().error.code for answer in answers]


def end(process: subprocess.Popen[str]) -> int:
    """Tells it to end; its exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(END_SECONDS)


def in_processes(*several: str) -> Sequence[tuple[str, str]]:
    """One process with every reader, and two with some."""
    return [*(("1", how) for how in READERS), *(("2", how) for how in several)]


@pytest.mark.parametrize(("processes", "how"), in_processes("stalled", "gone"))
def test_a_gateway_needs_no_reader(cluster: Cluster, how: str, processes: str) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--processes", processes)
    with started(how, "rowcall-gateway", *arguments, **cluster.gateway.variables) as (gateway, address):
        for _ in range(2):
            assert call(address, RunRequest(), "wait=0") == [0] * CALLS
        assert end(gateway) == 0


@pytest.mark.parametrize(("processes", "how"), in_processes(*FEWER))
async def test_a_worker_needs_no_reader(cluster: Cluster, gateways: Gateways, how: str, processes: str) -> None:
    """It has a line for every job that fails."""
    gateway = await gateways.start()
    request = RunRequest(fail_code=Code.INVALID_ARGUMENT, fail_attempts=1)

    def fails() -> None:
        with started(how, "rowcall-worker", "--processes", processes, **cluster.worker.variables) as (worker, _):
            assert call(gateway.address, request, f"wait={int(END_SECONDS)}") == [request.fail_code] * CALLS
            assert end(worker) == 0

    await asyncio.to_thread(fails)


@pytest.mark.parametrize("how", FEWER)
def test_the_development_system_needs_no_reader(dev_dir: Path, how: str) -> None:
    arguments = ("dev", "--listen", "127.0.0.1:0", "--data-dir", str(dev_dir))
    with started(how, "rowcall", *arguments) as (dev, address):
        assert call(address, RunRequest(), f"wait={int(END_SECONDS)}") == [0] * CALLS
        assert end(dev) == 0


FORKING = """
import multiprocessing
import sys
import warnings

from rowcall.probe.v1.probe_pb2 import RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceServicer, add_ProbeServiceServicer_to_server
from rowcall_worker import finished


def child(queue):
    # More than a pipe holds, by every way there is.
    for _ in range(50):
        sys.stderr.write("x" * 4095 + chr(10))
        warnings.warn("y" * 999)
    queue.put("done")


class Forking(ProbeServiceServicer):
    def Run(self, request, context):
        if not request.payload:
            raise ValueError("a line in the log")
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        said = queue.get()
        process.join()
        return finished(RunResponse(payload=said.encode()))


def register(worker):
    add_ProbeServiceServicer_to_server(Forking(), worker)
"""


@pytest.mark.parametrize(
    ("program", "how"),
    [
        *(("rowcall-worker", how) for how in READERS),
        *(("rowcall-worker --processes 2", how) for how in FEWER),
        *(("rowcall dev", how) for how in FEWER),
    ],
)
async def test_a_handler_that_forks_meanwhile_needs_no_reader(
    cluster: Cluster, gateways: Gateways, dev_dir: Path, program: str, how: str
) -> None:
    """Its child begins with nothing to write, and a thread of its own that is as little waited for."""
    (dev_dir / "forking.py").write_text(FORKING)
    command, *arguments = program.split()
    arguments += ["--servicer", "forking:register"]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, (str(dev_dir), os.environ.get("PYTHONPATH"))))}
    before = ""
    if command == "rowcall":
        arguments += ["--listen", "127.0.0.1:0", "--data-dir", str(dev_dir)]
    else:
        variables |= cluster.worker.variables
        before = (await gateways.start()).address

    def forks() -> None:
        with started(how, command, *arguments, **variables) as (worker, address):
            fork_and_fail(address or before)
            assert end(worker) == 0

    await asyncio.to_thread(forks)


def fork_and_fail(address: str) -> None:
    """Calls whose handlers fork, among others that fail and leave lines in the log."""
    with grpc.insecure_channel(address) as channel:
        run = ProbeServiceStub(channel).Run
        metadata = tenant("acme", ("prefer", f"wait={int(END_SECONDS)}"))
        failing = [run.future(RunRequest(), timeout=END_SECONDS, metadata=metadata) for _ in range(CALLS // 20)]
        forking = [run.future(RunRequest(payload=b"fork"), timeout=END_SECONDS, metadata=metadata) for _ in range(4)]
        for answer in forking:
            response = RunResponse()
            assert answer.result().response.Unpack(response)
            assert response.payload == b"done"
        assert all(answer.result().error.code for answer in failing)
