"""Paths that are no text, in raw frames: no client of gRPC's sends one."""

from __future__ import annotations

import pytest

from rowcall.probe.v1.probe_pb2 import RunRequest
from tests.fix_gateway import Gateways, tenant
from tests.support import http2
from tests.support.http2 import Raw
from tests.support.waiting import until

NOW = ("prefer", "wait=0")


@pytest.mark.parametrize("path", [b"/\xff/\xfe", b"\x80", b"/rowcall.probe.v1.ProbeService/Run\xc3"])
async def test_a_path_that_is_no_text_ends_no_server(gateways: Gateways, path: bytes) -> None:
    """gRPC's own server ends by it, with every call on it."""
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)
    await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))

    async with Raw.open(("127.0.0.1", gateway.port)) as raw:
        await raw.begin()
        await raw.send(http2.call(1, http2.block(path), http2.message(b"")))
        await until(lambda: raw.seen[http2.HEADERS] > 0 or raw.seen[http2.RST_STREAM] > 0)

    answer = await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))
    assert answer.name, "on the connection of before"
    answer = await (await gateways.probe(gateway)).Run(RunRequest(), timeout=20, metadata=tenant("acme", NOW))
    assert answer.name, "on another one"
    with pytest.raises(UnicodeDecodeError):
        path.decode()  # everybody else's bytes are read as ever
