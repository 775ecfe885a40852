"""Messages that nobody would send, to every RPC that a gateway serves: the process lives, and each gets an answer that is documented.

Seeded: `ROWCALL_SEED=…` repeats a run. A hundred thousand of them in the long form (`make chaos`).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from rowcall.catalogue.images import load_catalogue
from rowcall.errors import CODES, read_envelope, reason_name, status_of
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.rules import OUR_SERVICES
from tests.chaos.honest import Memory, honest_callers, report
from tests.fix_services import ServiceProcess, Services
from tests.support.messages import fill, mutate
from tests.support.places import ROOT
from tests.support.scale import scaled, seed, tell

MESSAGES: Final = scaled(3_000, 100_000)
IN_FLIGHT: Final = 32
GROWTH_MB: Final = 50

_REASONS: Final = {reason_name(reason): code for reason, code in CODES.items()}
_NEVER: Final = {"INTERNAL", reason_name(ErrorReason.ERROR_REASON_HANDLER_ERROR)}
"""Reasons that say that we, or a handler, did wrong."""
_WITHOUT_ENVELOPE: Final = {
    # The call's own time was up before an answer came.
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # gRPC's own limit on a message, behind ours.
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    # A health check of a service that there is not.
    grpc.StatusCode.NOT_FOUND,
}
"""Codes that gRPC itself ends a call with."""

_METADATA: Final = (
    ("rowcall-tenant", "acme"),
    ("rowcall-tenant", "A_B"),
    ("rowcall-tenant", ""),
    ("rowcall-actor", "a" * 300),
    ("rowcall-run-at", "2999-13-99T99:99:99Z"),
    ("rowcall-run-at", "2031-05-04T13:30:00Z"),
    ("rowcall-priority", "urgent"),
    ("rowcall-label-x", "y"),
    ("rowcall-label-", ""),
    ("rowcall-nonsense", "x"),
    ("rowcall-on-done", "no.Such/Method"),
    ("idempotency-key", "k"),
    ("idempotency-key", "k" * 300),
    ("prefer", "wait=0"),
    ("prefer", "wait=999999999999999999999"),
    ("prefer", "wait=-1"),
    ("traceparent", "00-" + "0" * 32 + "-" + "0" * 16 + "-ff"),
    ("traceparent", "nonsense"),
    ("grpc-previous-rpc-attempts", "99999999999"),
    ("authorization", "Bearer nonsense"),
    ("x-bytes-bin", b"\x00\xff"),
)


def served() -> list[tuple[str, type[Message]]]:
    """The path and request type of every unary method, out of the descriptors: a new one is among them at once."""
    catalogue = load_catalogue()
    methods = [method for name in OUR_SERVICES for method in catalogue.pool.FindServiceByName(name).methods]
    methods += [catalogue.pool.FindMethodByName(name.replace("/", ".")) for name in catalogue.methods]
    found = [
        (f"/{method.containing_service.full_name}/{method.name}", GetMessageClass(method.input_type))
        for method in methods
    ]
    return [*found, ("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest)]


def wrong_with(error: grpc.aio.AioRpcError) -> str | None:
    """What is not documented about an error; None if nothing is."""
    info = read_envelope(status_of(error))
    if info is None:
        return (
            None if error.code() in _WITHOUT_ENVELOPE else f"{error.code().name} without an envelope: {error.details()}"
        )
    if info.reason in _NEVER or info.reason not in _REASONS:
        return f"{error.code().name} {info.reason}: {error.details()}"
    if _REASONS[info.reason] is not error.code():
        return f"{info.reason} with the code {error.code().name}"
    return None


class Sender:
    """Sends what dice make, and notes what comes back."""

    def __init__(self, channel: grpc.aio.Channel, dice: random.Random) -> None:
        self.codes: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self._dice = dice
        self._methods = served()
        self._calls: dict[str, Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]]] = {
            path: channel.unary_unary(path) for path, _ in self._methods
        }

    async def send(self, number: int) -> None:
        """One message, of each method in turn."""
        path, kind = self._methods[number % len(self._methods)]
        data = fill(kind(), self._dice).SerializeToString()
        if self._dice.random() < 0.8:
            data = mutate(data, self._dice)
        metadata = self._dice.choices(_METADATA, k=self._dice.randrange(4))
        try:
            # Nobody works on what becomes a job: whoever waits is told so when the time is up.
            await self._calls[path](data, timeout=1.0, metadata=[*metadata, ("prefer", "wait=0")])
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1
            fault = wrong_with(error)
            if fault is not None:
                self.wrong[f"{path} {fault}"] += 1
        else:
            self.codes["OK"] += 1


async def sent(address: str, name: str, count: int) -> Sender:
    """Sends so many, some at a time."""
    dice = random.Random(seed(name))
    numbers: Iterator[int] = iter(range(count))
    async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        sender = Sender(channel, dice)

        async def some() -> None:
            for number in numbers:
                await sender.send(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(some())
    tell(f"{name}: {dict(sender.codes)}")
    return sender


@pytest.mark.timeout(scaled(180, 3600))
async def test_a_gateway_lives_through_messages_that_nobody_would_send(services: Services) -> None:
    gateway = services.gateway()
    # Its own queue, so that no honest call waits behind what the dice have submitted; nobody serves the others.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    worker = services.worker(
        "--queue", "probe", "--no-probe", "--servicer", "tests.chaos.echo:register", PYTHONPATH=path
    )
    address = await asyncio.to_thread(gateway.address)
    await asyncio.to_thread(worker.ready)
    await sent(address, "hostile messages, warm", 300)
    async with honest_callers(address) as quiet:
        await asyncio.sleep(2)
    memory = Memory(gateway.process.pid)

    async with honest_callers(address) as beside:
        sender = await sent(address, "hostile messages", MESSAGES)

    report("hostile messages", quiet, beside, memory)
    assert not sender.wrong, sender.wrong.most_common(10)
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(sender.codes), "some get far, some do not"
    assert not beside.failed, beside.failed[:5]
    assert memory.look() < GROWTH_MB
    assert _faults(gateway) == []
    assert await asyncio.to_thread(gateway.end) == 0, "".join(gateway.log[-20:])


def _faults(gateway: ServiceProcess) -> list[str]:
    """What it has logged as a fault of its own."""
    return [line for line in list(gateway.log) if '"level": "error"' in line][:5]
