"""A gateway whose gRPC server ends by itself: its process says so and ends, and does not live on without a port."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import RunRequest
from tests.fix_cluster import Cluster
from tests.fix_commands import Running
from tests.fix_gateway import Gateways, tenant
from tests.fix_services import END_SECONDS, ServiceProcess, Services
from tests.support import http2
from tests.support.http2 import Raw
from tests.support.ports import free_port

NOW = ("prefer", "wait=0")
NO_TEXT: Final = b"/\xff"
"""A path that gRPC's own server ends by; `paths` keeps it from that, and is told not to in these tests."""
ENDED = "gRPC's server has ended by itself: so does the process"


async def call_for(path: bytes, port: int) -> None:
    """Calls for it, and does not wait for an answer."""
    async with Raw.open(("127.0.0.1", port)) as raw:
        await raw.begin()
        await raw.send(http2.call(1, http2.block(path), http2.message(b"")))
        await raw.end(1)


def test_who_is_told_to_end_does_not_end_by_itself(services: Services) -> None:
    gateway = services.gateway()
    gateway.ready()
    assert gateway.end() == 0
    assert ENDED not in "".join(gateway.log)


async def test_a_process_outlives_a_path_that_is_no_text(services: Services) -> None:
    gateway = services.gateway()
    address = await asyncio.to_thread(gateway.address)

    await call_for(NO_TEXT, int(address.rpartition(":")[2]))

    async with grpc.aio.insecure_channel(address) as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        assert (await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))).name


ENDS_BY_A_PATH: Final = """
from rowcall_gateway.edge import paths
paths._decoded = paths._strict
"""
ENDS_BY_A_CANCELLATION: Final = """
import asyncio
from rowcall_gateway.edge import paths
start = paths.start
async def start_and_cancel(server):
    tasks = await start(server)
    asyncio.get_running_loop().call_later(0.5, lambda: [task.cancel() for task in tasks])
    return tasks
paths.start = start_and_cancel
"""
"""As by somebody who cancels all tasks."""


def program(ends: str, module: str = "rowcall_gateway") -> str:
    """A program with a gateway in it, whose server ends: always another process than this one, whose memory may be damaged then."""
    return f"import sys\n{ends}\nfrom {module}.__main__ import main\nsys.exit(main())\n"


def ended_by_itself(process: ServiceProcess) -> dict[str, Any]:
    """Waits until a process has ended with its server; the line that says so."""
    # Not 0: whoever started it starts it again.
    assert process.process.wait(END_SECONDS) == 1, "".join(process.log)
    assert process.all_gone()
    lines = [json.loads(line) for line in process.log if line.startswith("{")]
    ended: dict[str, Any]
    (ended,) = [line for line in lines if line["event"] == ENDED]
    assert (ended["level"], ended["service"]) == ("error", "gateway")
    return ended


@pytest.mark.parametrize("module", ["rowcall_gateway", "rowcall_cli"])
async def test_a_process_does_not_outlive_its_server(services: Services, cluster: Cluster, module: str) -> None:
    gateway = module == "rowcall_gateway"
    variables: Mapping[str, str] = cluster.gateway.variables if gateway else cluster.variables
    arguments = [*(() if gateway else ("serve",)), "--listen", "127.0.0.1:0"]
    process = services.python(program(ENDS_BY_A_PATH, module), *arguments, **variables)
    process.program = "rowcall-gateway" if gateway else "rowcall"
    address = await asyncio.to_thread(process.address)
    async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        assert (await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))).name

        await call_for(NO_TEXT, int(address.rpartition(":")[2]))

        ended = await asyncio.to_thread(ended_by_itself, process)
    assert "UnicodeDecodeError" in json.dumps(ended)


def test_a_process_does_not_outlive_a_server_that_is_cancelled(services: Services, cluster: Cluster) -> None:
    process = services.python(program(ENDS_BY_A_CANCELLATION), "--listen", "127.0.0.1:0", **cluster.gateway.variables)
    assert "CancelledError" in json.dumps(ended_by_itself(process))


async def test_a_process_does_not_outlive_its_port_of_health(services: Services, cluster: Cluster) -> None:
    port = free_port()
    arguments = ["--listen", "127.0.0.1:0", "--health-listen", f"127.0.0.1:{port}"]
    process = services.python(program(ENDS_BY_A_PATH), *arguments, **cluster.gateway.variables)
    process.program = "rowcall-gateway"
    await asyncio.to_thread(process.address)

    await call_for(NO_TEXT, port)

    await asyncio.to_thread(ended_by_itself, process)


async def test_what_grpc_says_of_callers_who_are_gone_is_no_fault(
    gateways: Gateways, caplog: pytest.LogCaptureFixture
) -> None:
    """Which of the calls that are reset as they are answered it says it of is a matter of moments: so it is said here."""
    await gateways.start()
    log = logging.getLogger("grpc._cython.cygrpc")
    log.error("ExecuteBatchError raised in core, ...")
    log.error("Invalid encoding received for metadata: ...")
    log.error("Something else")
    assert [record.getMessage() for record in caplog.records if record.name == log.name] == ["Something else"]


def test_dev_does_not_outlive_its_server(dev_dir: Path, running: Callable[..., Running]) -> None:
    command = running(
        "dev",
        "--data-dir",
        str(dev_dir),
        "--listen",
        "127.0.0.1:0",
        program=(sys.executable, "-c", program(ENDS_BY_A_PATH, "rowcall_cli")),
    )
    port = int(command.address().rpartition(":")[2])

    asyncio.run(call_for(NO_TEXT, port))

    assert command.wait() == 1, command.err
    assert ENDED in command.err
