"""Fixtures: the OpenTelemetry collector, built from the very versions of its go.sum, and who takes what it sends."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs

from tests.support.golang import NoGo, build
from tests.support.places import ROOT

SOURCE = ROOT / "tests" / "polyglot" / "otelcol"
END_SECONDS = 30.0

RunOtelcol = Callable[..., AbstractContextManager[Path]]


@pytest.fixture(scope="session")
def otelcol(run_directory: Path) -> Path:
    """The program."""
    program = run_directory / "otelcol"
    try:
        build(SOURCE, program)
    except NoGo as error:
        pytest.skip(f"NOT TRIED WITH THE OPENTELEMETRY COLLECTOR: {error}")
    return program


@contextmanager
def collecting(program: Path, configuration: Path, log: Path, **variables: str) -> Iterator[Path]:
    """Runs a collector, or what is made of one, with a configuration and its variables; what it says goes to the file that this yields."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [program, "--config", configuration],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def run_otelcol(otelcol: Path, tmp_path: Path) -> RunOtelcol:
    """Runs one with a configuration and its variables, for a `with` block."""
    return partial(collecting, otelcol, log=tmp_path / "otelcol.log")


class LogsTaker(LogsServiceServicer):
    """Takes log records as a log store's OTLP port does."""

    def __init__(self) -> None:
        self._taken: list[ResourceLogs] = []
        self._lock = threading.Lock()

    def Export(  # noqa: N802  the proto names it
        self, request: ExportLogsServiceRequest, context: grpc.ServicerContext
    ) -> ExportLogsServiceResponse:
        with self._lock:
            self._taken.extend(request.resource_logs)
        return ExportLogsServiceResponse()

    @property
    def taken(self) -> list[ResourceLogs]:
        """All that came, in turn."""
        with self._lock:
            return list(self._taken)


@contextmanager
def logs_taker() -> Iterator[tuple[LogsTaker, str]]:
    """One that listens; yields it and its address."""
    server = grpc.server(ThreadPoolExecutor(2))
    taker = LogsTaker()
    add_LogsServiceServicer_to_server(taker, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield taker, f"127.0.0.1:{port}"
    finally:
        server.stop(1).wait()
