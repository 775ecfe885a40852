"""Calls that come faster than one at a time: taken in together, and none lost when the server stops."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, cast

import grpc
import grpc.aio
import pytest
from grpc._cython import cygrpc as grpcs  # type: ignore[attr-defined]
from structlog.testing import capture_logs

from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall_gateway.edge import intake
from rowcall_gateway.edge.handlers import ByPath, Handler
from rowcall_gateway.edge.intake import AHEAD, make_server
from rowcall_gateway.edge.serving import Serving
from rowcall_gateway.edge.transport import server_options
from tests.fix_gateway import Gateways, info_of, tenant
from tests.support import http2
from tests.support.http2 import Raw
from tests.support.waiting import until

NOW = ("prefer", "wait=0")
PATH: Final = "/a.Service/Method"
MANY: Final = 100
BUSY: Final = 0.3
"""Seconds for which an event loop does something else."""

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[bytes]]


@asynccontextmanager
async def serving(behave: Behaviour) -> AsyncIterator[tuple[Serving, int]]:
    """A server of ours with one method, and its port; stopped at the end."""
    server = make_server(
        server_options(shares_port=False, max_message_bytes=4096, longest_call=timedelta(0), max_waiters=0)
    )
    handler: Handler = grpc.unary_unary_rpc_method_handler(cast("Any", behave))
    server.add_generic_rpc_handlers((ByPath({PATH: handler}, lambda _: None),))
    port = server.add_insecure_port("127.0.0.1:0")
    started = await Serving.start(server)
    try:
        yield started, port
    finally:
        await started.stop(None)


async def come(raw: Raw, many: int) -> None:
    """Calls come while the event loop is busy, so that all of them are there when it looks."""
    await raw.begin()
    await until(lambda: http2.SETTINGS in raw.seen)
    headers = http2.block(PATH.encode())
    await raw.send(http2.joined([http2.call(2 * n + 1, headers, http2.message(b"")) for n in range(many)]))
    time.sleep(BUSY)  # noqa: ASYNC251 - it is what is tested


async def echo(request: bytes, _: object) -> bytes:
    """Answers."""
    return request


async def test_calls_that_are_there_are_begun_together() -> None:
    """One at a time, as gRPC does it, each takes rounds of its own."""
    rounds = 0
    begun: list[int] = []

    def count() -> None:
        nonlocal rounds
        rounds += 1
        if len(begun) < MANY:
            loop.call_soon(count)

    async def behave(_: object, __: object) -> bytes:
        begun.append(rounds)
        return b""

    loop = asyncio.get_running_loop()
    async with serving(behave) as (_, port), Raw.open(("127.0.0.1", port)) as raw:
        await come(raw, MANY)
        count()
        await until(lambda: len(begun) == MANY)
    assert max(Counter(begun).values()) > MANY / 10, "in one round"


async def test_a_burst_is_answered(gateways: Gateways) -> None:
    gateway = await gateways.start()
    probes = [await gateways.probe(gateway) for _ in range(4)]

    answers = await asyncio.gather(
        *(probe.Run(RunRequest(), timeout=60, metadata=tenant("acme", NOW)) for probe in probes for _ in range(500))
    )

    assert len({answer.name for answer in answers}) == 2_000, "each is a job of its own"


async def test_calls_that_came_too_late_are_told_so() -> None:
    """What gRPC's core has given away, and nobody has begun with, would end as if its caller had cancelled it."""
    kept = len(intake._kept)
    async with serving(echo) as (started, port):
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call: Any = channel.unary_unary(PATH)
            await call(b"x", timeout=20)
            calls = [call(b"x", timeout=20) for _ in range(AHEAD)]
            # They are on their way, and the server has not looked yet.
            await asyncio.sleep(0)
            time.sleep(BUSY)  # noqa: ASYNC251 - see above
            stopping = asyncio.ensure_future(started.stop(20))
            ended = await asyncio.gather(*calls, return_exceptions=True)
            await stopping
            assert len(intake._kept) <= kept, "the core has let go"
    refused = [error for error in ended if isinstance(error, grpc.aio.AioRpcError)]
    assert len(refused) + ended.count(b"x") == AHEAD, "nobody is left without an answer"
    told = [error for error in refused if error.code() is grpc.StatusCode.UNAVAILABLE]
    assert told
    assert {info_of(error).reason for error in told} == {"GATEWAY_DRAINING"}


async def test_a_gateway_stops_while_calls_come(gateways: Gateways) -> None:
    gateway = await gateways.start()
    probe = await gateways.probe(gateway, ("grpc.enable_retries", 0))
    calls = [
        asyncio.ensure_future(probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))) for _ in range(1_000)
    ]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)

    async with asyncio.timeout(20):
        await gateway.drain(timedelta(seconds=2))
        ended = await asyncio.gather(*calls, return_exceptions=True)

    codes = Counter(error.code() if isinstance(error, grpc.aio.AioRpcError) else type(error) for error in ended)
    assert set(codes) <= {
        type(next(answer for answer in ended if not isinstance(answer, BaseException))),
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    }, codes
    assert not [task for task in asyncio.all_tasks() if "too late" in task.get_name()]


async def test_a_grpc_that_lacks_a_name_serves_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_METHODS", (*intake._METHODS, "_another"))
    with capture_logs() as told:
        async with serving(echo) as (_, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary(PATH)
            assert await asyncio.gather(*(call(b"x", timeout=20) for _ in range(10))) == [b"x"] * 10
    (line,) = (line for line in told if "one at a time" in line["event"])
    assert (line["log_level"], line["cause"]) == ("warning", "it has no _another")


async def test_a_grpc_that_asks_otherwise_serves_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Otherwise(grpcs.AioServer):  # type: ignore[misc]
        """Awaits something before it asks."""

        async def _request_call(self) -> Any:
            await asyncio.sleep(0)
            return await super()._request_call()

    monkeypatch.setattr(grpcs, "AioServer", Otherwise)
    with capture_logs() as told:
        async with serving(echo) as (_, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary(PATH)
            assert await asyncio.gather(*(call(b"x", timeout=20) for _ in range(10))) == [b"x"] * 10
    (line,) = (line for line in told if "one at a time" in line["event"])
    assert "otherwise" in line["cause"]


async def test_others_get_grpcs_own_server() -> None:
    before = grpcs.AioServer
    make_server(())
    assert grpcs.AioServer is before
