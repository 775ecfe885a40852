"""Keepalive pings as clients in Go, Java and C++ send them: a call that waits outlives them, oftener ones end the connection."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall_gateway.edge import transport
from tests.fix_gateway import Gateways, info_of, refused, tenant

USUAL = timedelta(seconds=10)
"""Between the pings of clients in Go and Java that keep their connections alive."""
SCALE = 5
"""Everything is so many times as quick as in earnest: pings, what the gateway bears, and how long a call waits."""
PINGS = 5.5 / SCALE
"""Seconds: a little more than the gateway asks for."""
WAITS = 26 / SCALE
"""Seconds that a call waits. The fourth ping comes before it ends, at which gRPC's own limits, which are minutes and hours, end
the connection."""
CUT_WITHIN = 26.0
"""Seconds."""


def pinging(seconds: float) -> tuple[tuple[str, object], ...]:
    """A client's options for pings without any limit of its own, as other languages have none."""
    milliseconds = int(seconds * 1000)
    return (
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        # One connection each: channels with equal arguments share one.
        ("grpc.use_local_subchannel_pool", 1),
    )


async def test_a_waiting_call_outlives_the_usual_pings(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody does the job: the call ends when its time is up, and not before; so does one on a connection that idled."""
    assert transport.PING_EVERY <= USUAL / 2, "a ping may come early, and be late before"
    monkeypatch.setattr(transport, "PING_EVERY", transport.PING_EVERY / SCALE)
    gateway = await gateways.start()
    waiting = await gateways.probe(gateway, *pinging(PINGS))
    idle_channel = await gateways.channel(gateway, *pinging(PINGS))
    await idle_channel.channel_ready()

    error = await refused(waiting.Echo(EchoRequest(), timeout=WAITS, metadata=tenant("acme")))

    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STILL_RUNNING")
    assert idle_channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_client_that_pings_without_pause_is_cut_off(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PING_EVERY", timedelta(minutes=1))
    probe = await gateways.probe(await gateways.start(), *pinging(0.2))

    async with asyncio.timeout(CUT_WITHIN):
        error = await refused(probe.Echo(EchoRequest(), timeout=2 * CUT_WITHIN, metadata=tenant("acme")))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
