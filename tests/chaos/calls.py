"""Single calls of the chaos tests' job types: each with a key, repeated until it has its answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from tests.chaos.receipts import Receipt

TENANTS = 10
_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_TIMEOUT = 20.0
_BACKOFF = 0.2


class Caller:
    """Calls through one gateway."""

    def __init__(self, stub: probe_pb2_grpc.ProbeServiceAsyncStub) -> None:
        self._stub = stub

    async def call(
        self, number: int, *, work: float = 0, busy: float = 0, exit_process: bool = False, retry: bool = True
    ) -> Receipt:
        """Calls until there is an answer: what the run said that counted. Raises AioRpcError, the job's own.

        Args:
            number: Of the call; its key.
            work: Seconds in which the handler leaves the event loop free.
            busy: Seconds in which it blocks it.
            exit_process: Whether it ends its process.
            retry: Whether to call again when the gateway or the shard could not answer.
        """
        request = probe_pb2.AwaitRequest(payload=str(number).encode(), exit_process=exit_process)
        request.work.FromMicroseconds(round(work * 1e6))
        request.busy.FromMicroseconds(round(busy * 1e6))
        metadata = [("rowcall-tenant", f"tenant-{number % TENANTS}"), ("idempotency-key", f"call-{number}")]
        while True:
            try:
                answer = await self._stub.Await(request, metadata=metadata, timeout=_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                if not retry or error.code() not in _PASSING:
                    raise
                await asyncio.sleep(random.uniform(0, _BACKOFF))  # a retry's backoff, not a wait for a condition
            else:
                return Receipt.decode(answer.payload)


@asynccontextmanager
async def caller(address: str) -> AsyncIterator[Caller]:
    """Calls through the gateway at an address."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield Caller(probe_pb2_grpc.ProbeServiceStub(channel))
