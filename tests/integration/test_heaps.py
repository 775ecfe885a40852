"""Whoever has a port has few heaps: what strangers' calls took in one thread's is of use to the others."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from rowcall.heaps import HEAPS
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest
from tests.fix_gateway import tenant
from tests.fix_services import ServiceProcess, Services

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="There is no glibc.")

HEAP_BYTES = 64 << 20
"""What glibc reserves for a heap beside the first, and where it lies: at a multiple of that."""

PROGRAMS: dict[str, Callable[[Services], ServiceProcess]] = {
    "gateway": lambda services: services.gateway(),
    "serve": lambda services: services.start("rowcall", "serve", "--listen", "127.0.0.1:0"),
}


def heaps(pid: int) -> int:
    """How many heaps of glibc's a process has beside the first."""
    parts = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    bounds = [tuple(int(end, 16) for end in part[0].split("-")) for part in parts]
    return sum(
        part[1] == "rw-p" and not start % HEAP_BYTES and after[1] == "---p" and end_after == start + HEAP_BYTES
        for part, (start, _), after, (_, end_after) in zip(parts, bounds, parts[1:], bounds[1:], strict=False)
    )


@pytest.mark.parametrize("program", PROGRAMS)
async def test_threads_share_heaps(services: Services, program: str) -> None:
    process = PROGRAMS[program](services)
    address = await asyncio.to_thread(process.address)
    services.worker()
    for _ in range(4):
        async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
            stub = probe_pb2_grpc.ProbeServiceStub(channel)
            await asyncio.gather(
                *(stub.Echo(EchoRequest(payload=b"x"), timeout=30, metadata=tenant("acme")) for _ in range(16))
            )
    assert heaps(process.process.pid) < HEAPS
