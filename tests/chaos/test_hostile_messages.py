"""Messages that nobody would send, to every RPC that a gateway serves: the process lives, and each gets an answer that is documented.
Sent by those who are believed, and by those who are nobody: with no token, or with one that does not do.

Seeded: `ROWCALL_SEED=…` repeats a run. A hundred thousand of them in the long form (`make chaos`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from rowcall.catalogue.images import load_catalogue
from rowcall.errors import CODES, read_envelope, reason_name, status_of
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.rules import OUR_SERVICES
from tests.chaos.honest import TENANT, Memory, honest_callers, report
from tests.fix_cluster import Cluster
from tests.fix_gateway import Metadata, jobs
from tests.fix_services import ServiceProcess, Services
from tests.support.contents import changes, contents, told_of_its_methods
from tests.support.messages import fill, mutate
from tests.support.places import ROOT
from tests.support.scale import scaled, seed, tell
from tests.support.tokens import TokenIssuer, bearer, hmac_with_public_key, rsa_key, unsigned
from tests.support.waiting import until

MESSAGES: Final = scaled(3_000, 100_000)
NOBODYS: Final = scaled(1_000, 100_000)
"""Of those who are nobody."""
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


HEALTH: Final = "/grpc.health.v1.Health/Check"
"""The one that everybody may call."""


def served() -> list[tuple[str, type[Message]]]:
    """The path and request type of every unary method, out of the descriptors: a new one is among them at once."""
    catalogue = load_catalogue()
    methods = [method for name in OUR_SERVICES for method in catalogue.pool.FindServiceByName(name).methods]
    methods += [catalogue.pool.FindMethodByName(name.replace("/", ".")) for name in catalogue.methods]
    found = [
        (f"/{method.containing_service.full_name}/{method.name}", GetMessageClass(method.input_type))
        for method in methods
    ]
    return [*found, (HEALTH, health_pb2.HealthCheckRequest)]


def bad_tokens(issuer: TokenIssuer, dice: random.Random) -> list[Metadata]:
    """Ways to bring no token, or one that does not do, with every role that there is in those that would do otherwise."""
    now = int(time.time())
    all_roles: dict[str, Any] = {"roles": ["admin", "caller", "operator", "payload-viewer", "viewer"], "tenant": "acme"}
    whole = issuer.token(**all_roles)
    others = TokenIssuer("https://elsewhere.example")
    found = [
        "",
        "Bearer",
        "Bearer nonsense",
        f"Basic {whole}",
        whole,
        f"Bearer {whole} {whole}",
        *(
            f"Bearer {text}"
            for text in (
                issuer.token(**all_roles, exp=now - 60, iat=now - 600),
                issuer.token(**all_roles, nbf=now + 86_400),
                issuer.token(**all_roles, aud="elsewhere"),
                issuer.token(**all_roles, key=rsa_key("another")),
                issuer.token(**all_roles, header={"kid": "nobody's"}),
                others.token(**all_roles, key=rsa_key("another")),
                unsigned(issuer, **all_roles),
                hmac_with_public_key(issuer, **all_roles),
            )
        ),
    ]
    for _ in range(40):
        # Anywhere but in the last letter of the signature, of which not every bit counts.
        at = dice.randrange(len(whole) - 1)
        letter = dice.choice([each for each in "abcXYZ019-_." if each != whole[at]])
        found.append(f"Bearer {whole[:at]}{letter}{whole[at + 1 :]}")
        found.append(f"Bearer {whole[: dice.randrange(len(whole))]}")
    twice = (*bearer(whole), *bearer(whole))
    return [(), twice, *((("authorization", value),) for value in found)]


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

    def __init__(
        self, channel: grpc.aio.Channel, dice: random.Random, *, tokens: Sequence[Metadata] = (), to: Sequence[str] = ()
    ) -> None:
        """
        Args:
            channel: To the gateway.
            dice: What is sent.
            tokens: What is brought, one of it with each; if there is any.
            to: Methods that are left out.
        """
        self.codes: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self._dice = dice
        self._tokens = tokens
        self._methods = [(path, kind) for path, kind in served() if path not in to]
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
        if self._tokens:
            metadata = [each for each in metadata if each[0] != "authorization"]
            metadata += self._dice.choice(self._tokens)
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


async def sent(address: str, name: str, count: int, issuer: TokenIssuer | None = None) -> Sender:
    """Sends so many, some at a time.

    Args:
        address: The gateway's.
        name: What is printed.
        count: How many.
        issuer: With tokens of its that do not do, to whatever needs one; None: with what dice say.
    """
    dice = random.Random(seed(name))
    tokens = [] if issuer is None else bad_tokens(issuer, dice)
    numbers: Iterator[int] = iter(range(count))
    async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        sender = Sender(channel, dice, tokens=tokens, to=() if issuer is None else (HEALTH,))

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


@pytest.mark.timeout(scaled(180, 3600))
async def test_who_is_nobody_comes_to_nothing_with_any_message(
    services: Services, cluster: Cluster, tmp_path: Path
) -> None:
    issuer = TokenIssuer()
    gateway = services.gateway(ROWCALL_IDENTITY="jwt", ROWCALL_ISSUERS=str(issuer.write(tmp_path)))
    address = await asyncio.to_thread(gateway.address)
    await until(lambda: told_of_its_methods(cluster))
    # Alone, so that whatever is written meanwhile is theirs.
    before = contents(cluster)
    await sent(address, "messages of nobody's, alone", 300, issuer)
    assert changes(before, contents(cluster)) == []

    worker = services.worker()
    await asyncio.to_thread(worker.ready)
    honest = issuer.metadata(tenant=TENANT, exp=int(time.time()) + 7_200)
    async with honest_callers(address, honest) as quiet:
        await asyncio.sleep(2)
    memory = Memory(gateway.process.pid)
    async with honest_callers(address, honest) as beside:
        sender = await sent(address, "messages of nobody's", NOBODYS, issuer)

    report("messages of nobody's", quiet, beside, memory)
    assert not sender.wrong, sender.wrong.most_common(10)
    assert sender.codes == {"UNAUTHENTICATED": NOBODYS}
    assert not beside.failed, beside.failed[:5]
    assert memory.look() < GROWTH_MB
    assert {who for (who,) in jobs(cluster, "tenant")} == {TENANT}
    assert _faults(gateway) == []
    assert await asyncio.to_thread(gateway.end) == 0, "".join(gateway.log[-20:])
    calls = [json.loads(line) for line in gateway.log if '"event": "call"' in line]
    # What handlers and rows are told of comes after that: no line of theirs has a tenant, an actor or a job.
    assert {(call["tenant"], call["actor"]) for call in calls} == {(None, None), (TENANT, "ada")}
    assert {call["code"] for call in calls if call["tenant"] is None} == {"UNAUTHENTICATED"}


def _faults(gateway: ServiceProcess) -> list[str]:
    """What it has logged as a fault of its own."""
    return [line for line in list(gateway.log) if '"level": "error"' in line][:5]
