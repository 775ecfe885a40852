"""Honest callers beside whatever is done to a gateway, and what it does to them and to the gateway's memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import grpc
import psutil

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest
from tests.fix_gateway import Metadata, tenant
from tests.support.scale import tell

CALLERS: Final = 4
TENANT: Final = "honest"
_PAUSE: Final = 0.02
"""Seconds between a caller's calls: they shall feel what happens, not be what happens."""
_TIMEOUT: Final = 30.0


@dataclass(slots=True)
class Felt:
    """What honest callers have felt meanwhile."""

    seconds: list[float] = field(default_factory=list)
    """How long each answered call took."""
    failed: list[str] = field(default_factory=list)
    """What the others ended with, and what was being done then."""
    during: str = ""
    """What is being done."""

    def quantile(self, part: float) -> float:
        """Milliseconds that so large a part of the calls did not exceed."""
        found = sorted(self.seconds)
        return found[min(len(found) - 1, int(len(found) * part))] * 1e3


@contextlib.asynccontextmanager
async def honest_callers(address: str, metadata: Metadata | None = None) -> AsyncIterator[Felt]:
    """Calls answered through row and worker, on connections of their own, for the length of the block.

    Args:
        address: The gateway's.
        metadata: Says who calls: of the tenant TENANT; None: by its name alone.
    """
    who = tenant(TENANT) if metadata is None else metadata
    felt = Felt()
    ended = asyncio.Event()

    async def calls(number: int) -> None:
        async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
            stub = probe_pb2_grpc.ProbeServiceStub(channel)
            payload = f"honest {number}".encode()
            while not ended.is_set():
                began = time.perf_counter()
                try:
                    answer = await stub.Echo(
                        EchoRequest(payload=payload), timeout=_TIMEOUT, metadata=who, wait_for_ready=True
                    )
                except grpc.aio.AioRpcError as error:
                    felt.failed.append(f"{felt.during}: {error.code().name}: {error.details()}")
                else:
                    assert answer.payload == payload
                    felt.seconds.append(time.perf_counter() - began)
                await asyncio.sleep(_PAUSE)

    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(calls(number))
        try:
            yield felt
        finally:
            ended.set()


class Memory:
    """What a process holds, against what it held at the start."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._before = self._held()
        self.most = 0.0
        """The most that it has grown by when it was looked at, in MB."""

    def look(self) -> float:
        """By how many MB it has grown."""
        grown = self._held() - self._before
        self.most = max(self.most, grown)
        return grown

    def _held(self) -> float:
        return float(self._process.memory_info().rss) / 1e6


def report(name: str, quiet: Felt, beside: Felt, memory: Memory) -> None:
    """Prints the figures of a run: they are read by people, and fail nothing on a machine that has other work."""
    tell(
        f"{name}: memory +{memory.look():.1f} MB (at most +{memory.most:.1f}); honest calls: {len(beside.seconds)}, "
        f"p50 {beside.quantile(0.5):.1f} ms, p99 {beside.quantile(0.99):.1f} ms; before: p50 {quiet.quantile(0.5):.1f} ms, "
        f"p99 {quiet.quantile(0.99):.1f} ms"
    )
