"""Calls that go on without a pause while a test exchanges something under a gateway and a worker, and the sessions that those hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc.aio

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.sharding import Router
from tests.fix_gateway import tenant
from tests.support.waiting import until

SECONDS: Final = 20.0

KINDS: Final = frozenset(
    {
        *("rowcall-gateway submit", "rowcall-gateway listener"),
        *("rowcall-worker claim", "rowcall-worker settle", "rowcall-worker maintenance"),
        *("rowcall-worker lease", "rowcall-worker listen"),
    }
)
"""Sessions that a call needs, and those that are there all the time, by application_name. The other pools' are made as these are,
and notifiers' as listeners', once they have something to do."""


@asynccontextmanager
async def called(address: str) -> AsyncIterator[list[float]]:
    """Has calls made without a pause, from eight callers; fails if one fails. Yields when each was answered."""
    answered: list[float] = []
    over = asyncio.Event()

    async def call(channel: grpc.aio.Channel) -> None:
        probe = probe_pb2_grpc.ProbeServiceStub(channel)
        while not over.is_set():
            await probe.Echo(EchoRequest(payload=b"x"), timeout=SECONDS, metadata=tenant("acme"))
            answered.append(asyncio.get_running_loop().time())

    async with grpc.aio.insecure_channel(address) as channel:
        running = asyncio.gather(*(call(channel) for _ in range(8)))
        try:
            await until(lambda: len(answered) > 20 or running.done())
            yield answered
            await more_than(answered, 20)
        finally:
            over.set()
            await running


async def more_than(answered: list[float], count: int) -> None:
    """Waits until so many more calls are answered."""
    before = len(answered)
    await until(lambda: len(answered) > before + count)


async def new_sessions(gateway: Any) -> None:
    """Has every pool of a gateway open its connections anew, one after another, as their lifetime does."""
    router: Router = gateway._router
    for shard in router.shards.values():
        for pool in shard._pools.values():
            await pool.drain()
    assert router._catalogue is not None
    await router._catalogue.drain()
