"""Fixtures: `rowcall-gateway` and `rowcall-worker` as processes of their own, on a cluster, to be killed and restarted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.fix_cluster import Cluster
from tests.fix_commands import environment

READY_SECONDS = 90.0
END_SECONDS = 30.0


class ServiceProcess:
    """One service. Its stdout tells when it is ready; what it logs is kept for the assertion that fails."""

    def __init__(self, program: str, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
        self.program = program
        self.log: list[str] = []
        self.heard = ""
        """What stood behind "ready" in its ready line."""
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name(program), *arguments],
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # gRPC's own lines may quote what a stranger has sent.
            errors="replace",
            # A group of its own: one that is stopped by a test must not be among the jobs of this run's group. Were that
            # orphaned meanwhile, the kernel would hang up the whole run.
            process_group=0,
        )
        # A pipe that nobody reads fills up and stops the process.
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def ready(self) -> str:
        """Waits for its ready line; returns what stands behind "ready"."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(READY_SECONDS, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        prefix = f"{self.program}: ready"
        assert line.startswith(prefix), f"{line!r}\n{''.join(self.log)}"
        self.heard = line.removeprefix(prefix).strip()
        return self.heard

    def address(self) -> str:
        """Waits until a gateway is ready; returns its host and port."""
        return self.ready().removeprefix("on ")

    def members(self) -> dict[int, int]:
        """The process ids of several processes of one command, by their numbers: those that were started last."""
        lines = [json.loads(line) for line in list(self.log) if '"process started"' in line]
        return {line["process"]: line["pid"] for line in lines}

    def _started(self) -> set[int]:
        """The process ids of all that it and its processes have said to have started."""
        lines = [json.loads(line) for line in list(self.log) if ' started"' in line and '"pid"' in line]
        return {line["pid"] for line in lines}

    def all_gone(self) -> bool:
        """Waits until every one of its processes has ended: each of them holds its stderr."""
        self._reader.join(END_SECONDS)
        return not self._reader.is_alive()

    def put_down(self) -> None:
        """Kills it and what it had started, which would drain first, or stay if a test has found it out."""
        self.process.kill()
        self.process.wait()
        for member in self._started() if self._reader.is_alive() else ():
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        self._reader.join(END_SECONDS)

    def kill(self) -> None:
        """Kills it as a crash or the kernel would: no clean-up, no goodbye."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        return code

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)


class Services:
    """Starts services on one cluster."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self._stack = stack
        self._cluster = cluster
        self._of = {"rowcall-gateway": cluster.gateway.variables, "rowcall-worker": cluster.worker.variables}

    def start(self, program: str, *arguments: str, **variables: str) -> ServiceProcess:
        """Starts a program with the cluster's settings, as its own login where it is a gateway or a worker, and some more;
        does not wait for it."""
        settings = self._of.get(program, self._cluster.variables)
        service = ServiceProcess(program, arguments, {**settings, **variables})
        self._stack.enter_context(service.process)
        self._stack.callback(service.put_down)
        return service

    def gateway(self, listen: str = "127.0.0.1:0", *arguments: str, **variables: str) -> ServiceProcess:
        """Starts a gateway."""
        return self.start("rowcall-gateway", "--listen", listen, *arguments, **variables)

    def worker(self, *arguments: str, **variables: str) -> ServiceProcess:
        """Starts a worker."""
        return self.start("rowcall-worker", *arguments, **variables)

    def python(self, program: str, *arguments: str, **variables: str) -> ServiceProcess:
        """Starts a program that is no service's own, by its text."""
        return self.start(Path(sys.executable).name, "-c", program, *arguments, **variables)


@pytest.fixture
def services(cluster: Cluster) -> Iterator[Services]:
    """Starts services on the test's cluster; what still runs after the test is killed."""
    with ExitStack() as stack:
        yield Services(cluster, stack)
