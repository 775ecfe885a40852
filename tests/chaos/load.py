"""The callers of a history check: so many calls in flight at once through any of the gateways, each with its history."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import grpc

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from tests.chaos import errors
from tests.chaos.history import Came, History, Invoked, Kind, Outcome

TENANTS: Final = 20
LABEL: Final = "call"
"""The label that carries a call's number."""

_KINDS: Final[Sequence[Kind]] = ("answer", "keyed", "once")
_SHARES: Final = (40, 50, 10)
"""Per cent of each kind."""
_TIMEOUT: Final = 20.0
_LONGEST_WORK: Final = 0.8
"""Seconds; handlers take a random time up to it, so that a fault finds many of them at work."""
_LONGEST_TRANSACTION: Final = 0.2
"""The same of handlers with a transaction, which have few connections to share."""
_BACKOFF: Final = 0.2
"""Seconds; a retry's wait is a random part of it."""
CHANNEL: Final = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
"""Options of a channel that finds a gateway again at once which was restarted."""

PASSING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""After these a caller tries again; after any other its call is over, and the verdict finds that it was not answered."""


class Load:
    """Makes calls until there were enough."""

    def __init__(self, history: History, dice: random.Random, *, calls: int, in_flight: int) -> None:
        """
        Args:
            history: Where everything is written down.
            dice: Decides what each call is.
            calls: How many to make.
            in_flight: How many at once.
        """
        self.ended = 0
        """How many calls have ended, one way or another."""
        self.attempts: Counter[Came] = Counter()
        """What came of attempts."""
        self._history = history
        self._dice = dice
        self._calls = calls
        self._in_flight = in_flight
        self._numbers = iter(range(calls))

    async def run(self, addresses: Sequence[str]) -> None:
        """Makes all calls. Each goes to one of the gateways, each retry to any of them."""
        async with AsyncExitStack() as stack:
            stubs = [
                probe_pb2_grpc.ProbeServiceStub(
                    await stack.enter_async_context(grpc.aio.insecure_channel(address, options=CHANNEL))
                )
                for address in addresses
            ]
            async with asyncio.TaskGroup() as callers:
                for _ in range(self._in_flight):
                    callers.create_task(self._caller(stubs))

    async def _caller(self, stubs: Sequence[probe_pb2_grpc.ProbeServiceAsyncStub]) -> None:
        for number in self._numbers:
            (kind,) = self._dice.choices(_KINDS, _SHARES)
            longest = _LONGEST_WORK if kind == "answer" else _LONGEST_TRANSACTION
            await self._call(stubs, number, kind, self._dice.uniform(0, longest))
            self.ended += 1

    async def _call(
        self, stubs: Sequence[probe_pb2_grpc.ProbeServiceAsyncStub], number: int, kind: Kind, work: float
    ) -> None:
        over = False
        while not over:
            over = await self._attempt(self._dice.choice(stubs), number, kind, work)
            if not over:
                await asyncio.sleep(self._dice.uniform(0, _BACKOFF))

    async def _attempt(self, stub: probe_pb2_grpc.ProbeServiceAsyncStub, number: int, kind: Kind, work: float) -> bool:
        """Sends a call; whether it is over."""
        self._history.write(Invoked(number, kind))
        try:
            outcome = await _send(stub, number, kind, work)
        except grpc.aio.AioRpcError as error:
            passing = error.code() in PASSING
            outcome = Outcome(number, "unknown" if passing else "refused", errors.of_call(error))
            over = kind == "once" or not passing
        else:
            over = True
        self._history.write(outcome)
        self.attempts[outcome.came] += 1
        return over


async def _send(stub: probe_pb2_grpc.ProbeServiceAsyncStub, number: int, kind: Kind, work: float) -> Outcome:
    metadata = [("rowcall-tenant", f"tenant-{number % TENANTS}"), (f"rowcall-label-{LABEL}", str(number))]
    if kind != "once":
        metadata.append(("idempotency-key", f"call-{number}"))
    payload = str(number).encode()
    if kind == "answer":
        request = probe_pb2.AwaitRequest(payload=payload)
        request.work.FromMicroseconds(round(work * 1e6))
        answer = await stub.Await(request, metadata=metadata, timeout=_TIMEOUT)
        return Outcome(number, "response", answer.payload.decode())
    order = probe_pb2.RunRequest(payload=payload)
    order.work.FromMicroseconds(round(work * 1e6))
    operation = await stub.Run(order, metadata=[*metadata, ("prefer", "wait=0")], timeout=_TIMEOUT)
    return Outcome(number, "name", operation.name)
