"""A gateway whose gRPC server ends by itself: it says so, ends in order, and does not live on without a port."""

from __future__ import annotations

import asyncio
import codecs
import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall_gateway.edge import paths
from tests.fix_cluster import Cluster
from tests.fix_commands import Running
from tests.fix_gateway import Gateways, info_of, jobs, refused, tenant
from tests.fix_services import END_SECONDS, Services
from tests.support import http2
from tests.support.http2 import Raw
from tests.support.waiting import until

NOW = ("prefer", "wait=0")
NO_TEXT: Final = b"/\xff"
"""A path that gRPC's own server ends by; `paths` keeps it from that, and is told not to in these tests."""
ENDED = "gRPC's server has ended by itself: no more calls are taken"


async def call_for(path: bytes, port: int) -> None:
    """Calls for it, and does not wait for an answer."""
    async with Raw.open(("127.0.0.1", port)) as raw:
        await raw.begin()
        await raw.send(http2.call(1, http2.block(path), http2.message(b"")))
        await raw.end(1)


def taking_in() -> list[asyncio.Task[Any]]:
    """The tasks of this event loop in which servers take calls in."""
    return [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == "_server_main_loop"]


async def test_a_server_that_ends_by_itself_is_noticed_and_stopped_in_order(
    gateways: Gateways, cluster: Cluster
) -> None:
    failed: list[bool] = []
    # A notice to balancers, of a port that is gone, would be an hour for nothing.
    gateway = await gateways.start(failed=lambda: failed.append(True), drain_notice=timedelta(hours=1))
    probe = await gateways.probe(gateway)
    waiting = asyncio.ensure_future(refused(probe.Echo(EchoRequest(), timeout=60, metadata=tenant("acme"))))
    await until(lambda: len(jobs(cluster, "name")) == 1)
    assert (failed, gateway.has_failed) == ([], False)

    codecs.register_error("strict", paths._strict)
    await call_for(NO_TEXT, gateway.port)

    await until(lambda: bool(failed))
    assert (failed, gateway.has_failed) == ([True], True)
    async with asyncio.timeout(20):
        await gateway.drain()
        error = await waiting
    assert info_of(error).reason == "GATEWAY_DRAINING", "it is answered as in any drain"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", gateway.port)
    assert failed == [True]


async def test_the_end_of_the_health_port_is_noticed_too(gateways: Gateways) -> None:
    failed = asyncio.Event()
    before = set(taking_in())
    gateway = await gateways.start(failed=failed.set, health_listen="127.0.0.1:0")
    assert len(set(taking_in()) - before) == 2, "gRPC's server is another one: watch what takes its calls in"

    codecs.register_error("strict", paths._strict)
    await call_for(NO_TEXT, gateway.health_port)

    await asyncio.wait_for(failed.wait(), 20)
    assert gateway.has_failed


@pytest.mark.parametrize("end", ["stop", "drain"])
async def test_who_is_told_to_end_has_not_failed(gateways: Gateways, end: str) -> None:
    failed: list[bool] = []
    gateway = await gateways.start(failed=lambda: failed.append(True))
    probe = await gateways.probe(gateway)
    await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))

    await getattr(gateway, end)()

    assert (failed, gateway.has_failed) == ([], False)


class Program(NamedTuple):
    """A program with a gateway in it."""

    module: str
    name: str
    """As its ready line begins."""
    arguments: tuple[str, ...]

    @property
    def text(self) -> str:
        """It, with a server that ends by a path."""
        return (
            "import sys\n"
            "from rowcall_gateway.edge import paths\n"
            "paths._decoded = paths._strict\n"
            f"from {self.module}.__main__ import main\n"
            "sys.exit(main())\n"
        )


CANCELLED: Final = """
import asyncio, sys
from rowcall_gateway.edge import paths
start = paths.start
async def start_and_cancel(server):
    tasks = await start(server)
    asyncio.get_running_loop().call_later(0.5, lambda: [task.cancel() for task in tasks])
    return tasks
paths.start = start_and_cancel
from rowcall_gateway.__main__ import main
sys.exit(main())
"""
"""A gateway whose server is cancelled, as by somebody who cancels all tasks."""


GATEWAY = Program("rowcall_gateway", "rowcall-gateway", ("--grace", "2s", "--drain-notice", "1h"))
SERVE = Program("rowcall_cli", "rowcall", ("serve", "--grace", "2s", "--drain-notice", "1h"))


@pytest.mark.parametrize("program", [GATEWAY, SERVE], ids=lambda program: program.name)
async def test_a_process_does_not_outlive_its_server(services: Services, cluster: Cluster, program: Program) -> None:
    variables: Mapping[str, str] = cluster.gateway.variables if program is GATEWAY else cluster.variables
    process = services.start(
        Path(sys.executable).name, "-c", program.text, *program.arguments, "--listen", "127.0.0.1:0", **variables
    )
    process.program = program.name
    address = await asyncio.to_thread(process.address)
    async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        assert (await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))).name

        await call_for(NO_TEXT, int(address.rpartition(":")[2]))

        # Not 0: whoever started it starts it again.
        assert await asyncio.to_thread(process.process.wait, END_SECONDS) == 1, "".join(process.log)
    assert process.all_gone()
    lines = [json.loads(line) for line in process.log if line.startswith("{")]
    (ended,) = [line for line in lines if line["event"] == ENDED]
    assert (ended["level"], ended["service"]) == ("error", "gateway")
    assert "UnicodeDecodeError" in json.dumps(ended)
    assert [line["event"] for line in lines if line["event"] == "draining"] == ["draining"], "in order"


def test_a_process_does_not_outlive_a_server_that_is_cancelled(services: Services, cluster: Cluster) -> None:
    """gRPC (1.85.1) then frees what its core writes the next call to: the process ends in order, or by that. Hence not in this one."""
    program = Path(sys.executable).name
    variables = cluster.gateway.variables
    process = services.start(program, "-c", CANCELLED, "--grace", "2s", "--listen", "127.0.0.1:0", **variables)
    assert process.process.wait(END_SECONDS * 2) != 0
    assert process.all_gone()


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
    """`rowcall dev` says it in words."""
    text = Program("rowcall_cli", "", ()).text
    command = running(
        "dev", "--data-dir", str(dev_dir), "--listen", "127.0.0.1:0", program=(sys.executable, "-c", text)
    )
    port = int(command.address().rpartition(":")[2])

    asyncio.run(call_for(NO_TEXT, port))

    assert command.wait() == 1, command.err
    assert "The gateway's server ended by itself" in command.err
