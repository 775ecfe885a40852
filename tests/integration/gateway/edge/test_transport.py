"""What a stranger can have a gateway hold, and how little of it honest callers notice."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest

from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall_gateway.edge import transport
from rowcall_gateway.server import Gateway
from tests.fix_gateway import Gateways, info_of, refused, tenant
from tests.support import http2
from tests.support.http2 import Raw
from tests.support.waiting import until

NOW = ("prefer", "wait=0")


def place(gateway: Gateway) -> tuple[str, int]:
    """Where it listens."""
    return "127.0.0.1", gateway.port


@pytest.mark.parametrize("begun", [b"", http2.PREFACE[:10]], ids=["nothing", "half a preface"])
async def test_a_client_that_says_nothing_is_let_go(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(transport, "HANDSHAKE", timedelta(seconds=1))
    gateway = await gateways.start()
    async with Raw.open(place(gateway)) as raw:
        await raw.send(begun)
        assert await raw.end(20), "gRPC's own patience is two minutes"


async def test_a_connection_carries_as_many_calls_as_it_is_told(gateways: Gateways) -> None:
    gateway = await gateways.start()
    async with Raw.open(place(gateway)) as raw:
        await raw.begin()
        await until(lambda: http2.MAX_CONCURRENT_STREAMS in raw.announced)
        assert raw.announced[http2.MAX_CONCURRENT_STREAMS] == transport.MAX_STREAMS
        # Who is told and opens more all the same is refused those, before anything of ours hears of them.
        headers = http2.block(b"/rowcall.probe.v1.ProbeService/Run", (b"rowcall-tenant", b"acme"))
        for start in range(1, 2 * transport.MAX_STREAMS + 400, 400):
            calls = [
                http2.frame(http2.HEADERS, http2.END_HEADERS, each, headers) for each in range(start, start + 400, 2)
            ]
            await raw.send(http2.joined(calls))
        await until(lambda: raw.seen[http2.RST_STREAM] > 0 or raw.ended.is_set())


async def test_as_many_calls_may_come_at_once_as_may_wait(gateways: Gateways) -> None:
    """What is above gRPC's own bound ends as if its caller had cancelled it: what clients repeat of all others, they do not repeat."""
    gateway = await gateways.start()
    channels = [await gateways.channel(gateway) for _ in range(4)]
    calls: list[Any] = [channel.unary_unary("/no.Such/Method") for channel in channels]

    ended = await asyncio.gather(
        *(call(b"", timeout=60) for call in calls for _ in range(1_000)), return_exceptions=True
    )

    codes = Counter(error.code() for error in ended if isinstance(error, grpc.aio.AioRpcError))
    assert codes == {grpc.StatusCode.UNIMPLEMENTED: 4_000}, "each is answered, by us"


async def test_a_health_check_that_is_no_message_is_told_so(gateways: Gateways) -> None:
    channel = await gateways.channel(await gateways.start())
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")

    error = await refused(check(b"\x0a\x01\xff", timeout=20))

    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE_REQUEST")
    assert await check(b"", timeout=20) == b"\x08\x01", "one that is, is answered"
    watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
    async for state in watch(b"", timeout=20):
        assert state == b"\x08\x01"
        break


async def test_more_metadata_than_a_call_may_have_is_refused(gateways: Gateways) -> None:
    probe = await gateways.probe(await gateways.start())

    await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW, ("x-mine", "y" * 8_000)))
    error = await refused(probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW, ("x-mine", "y" * 100_000))))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # The connection, and whoever shares it, goes on.
    assert (await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))).name


async def test_connections_end_by_age_and_callers_do_not_notice(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "AGE", timedelta(seconds=1))
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)
    async with Raw.open(place(gateway)) as raw:
        await raw.begin()
        names = set()
        while not raw.seen[http2.GOAWAY]:
            names.add((await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))).name)
        # As long again: the caller's own connection has been sent away meanwhile, some times.
        ends = asyncio.get_running_loop().time() + 3
        while asyncio.get_running_loop().time() < ends:
            names.add((await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))).name)
    assert len(names) > 10


async def test_idle_connections_end(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "IDLE", timedelta(seconds=1))
    gateway = await gateways.start()
    channel = await gateways.channel(gateway)
    await channel.channel_ready()
    async with asyncio.timeout(20):
        await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    probe = await gateways.probe(gateway)
    assert (await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))).name


async def test_callers_leave_files_to_the_databases(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "max_connections", lambda: 5)
    gateway = await gateways.start()
    async with AsyncExitStack() as stack:
        raws = []
        for _ in range(8):
            raw = await stack.enter_async_context(Raw.open(place(gateway)))
            await raw.begin()
            raws.append(raw)
        await until(lambda: sum(raw.ended.is_set() for raw in raws) == 3)
        served = [raw for raw in raws if not raw.ended.is_set()]
        await until(lambda: all(http2.SETTINGS in raw.seen for raw in served))
    # Those that have gone make room.
    probe = await gateways.probe(gateway)
    answer = await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW), wait_for_ready=True)
    assert answer.name


@pytest.mark.parametrize(
    ("soft", "connections"),
    [(256, 128), (1024, 768), (20_000, 19_744), (1_048_576, 100_000), (resource.RLIM_INFINITY, 100_000)],
)
def test_how_many_connections_there_may_be_goes_by_open_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert transport.max_connections() == connections
