"""Whoever reads a service's log may stall, go away, or have a full disk: callers feel nothing, and the service ends in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc.code_pb2 import Code

from rowcall.probe.v1.probe_pb2 import RunRequest, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from tests.fix_cluster import Cluster
from tests.fix_commands import environment
from tests.fix_gateway import tenant
from tests.fix_services import END_SECONDS, READY_SECONDS, Services

READERS = ("stalled", "gone", "full disk")
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


@pytest.mark.parametrize(("processes", "how"), [("1", how) for how in READERS] + [("2", "stalled"), ("2", "gone")])
def test_a_gateway_needs_no_reader(cluster: Cluster, how: str, processes: str) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--processes", processes)
    with started(how, "rowcall-gateway", *arguments, **cluster.gateway.variables) as (gateway, address):
        for _ in range(2):
            assert call(address, RunRequest(), "wait=0") == [0] * CALLS
        assert end(gateway) == 0


@pytest.mark.parametrize(("processes", "how"), [("1", how) for how in READERS] + [("2", how) for how in READERS])
def test_a_worker_needs_no_reader(cluster: Cluster, services: Services, how: str, processes: str) -> None:
    """It has a line for every job that fails."""
    address = services.gateway().address()
    request = RunRequest(fail_code=Code.INVALID_ARGUMENT, fail_attempts=1)
    with started(how, "rowcall-worker", "--processes", processes, **cluster.worker.variables) as (worker, _):
        assert call(address, request, f"wait={int(END_SECONDS)}") == [request.fail_code] * CALLS
        assert end(worker) == 0


@pytest.mark.parametrize("how", READERS)
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


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("program", ["rowcall-worker", "rowcall-worker --processes 2", "rowcall dev"])
def test_a_handler_that_forks_meanwhile_needs_no_reader(
    cluster: Cluster, services: Services, dev_dir: Path, program: str, how: str
) -> None:
    """Its child begins with nothing to write, and a thread of its own that is as little waited for."""
    (dev_dir / "forking.py").write_text(FORKING)
    command, *arguments = program.split()
    arguments += ["--servicer", "forking:register"]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, (str(dev_dir), os.environ.get("PYTHONPATH"))))}
    if command == "rowcall":
        arguments += ["--listen", "127.0.0.1:0", "--data-dir", str(dev_dir)]
    else:
        variables |= cluster.worker.variables
    with started(how, command, *arguments, **variables) as (worker, address), ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(address or services.gateway().address()))
        run = ProbeServiceStub(channel).Run
        metadata = tenant("acme", ("prefer", f"wait={int(END_SECONDS)}"))
        failing = [run.future(RunRequest(), timeout=END_SECONDS, metadata=metadata) for _ in range(CALLS // 20)]
        forking = [run.future(RunRequest(payload=b"fork"), timeout=END_SECONDS, metadata=metadata) for _ in range(4)]
        for answer in forking:
            response = RunResponse()
            assert answer.result().response.Unpack(response)
            assert response.payload == b"done"
        assert all(answer.result().error.code for answer in failing)
        assert end(worker) == 0
