"""What strangers do to a port that speaks HTTP/2, by name: malformed frames, floods, and clients that do nothing, slowly.

Each takes an address and how much of it to do. None waits for the server to give in: what is looked at is the server.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import random
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Final

from rowcall.probe.v1.probe_pb2 import EchoRequest
from tests.support import http2
from tests.support.http2 import Raw

Address = tuple[str, int]
Attack = Callable[[Address, int], Awaitable[None]]

ECHO: Final = b"/rowcall.probe.v1.ProbeService/Echo"
STRANGER: Final = "stranger"
"""The tenant that strangers say they are."""

_HEADERS: Final = http2.block(ECHO, (b"rowcall-tenant", STRANGER.encode()))
_BODY: Final = http2.message(EchoRequest(payload=b"x").SerializeToString())
_SECONDS: Final = 1.0
"""How long what is slow is looked at."""


async def _bytes(address: Address, *data: bytes, first: bytes | None = None, preface: bool = True) -> None:
    async with Raw.open(address) as raw:
        if preface:
            await raw.begin(first)
        await raw.send(*data)
        await raw.end(0.2)


async def _beside(address: Address, each: Iterable[bytes], *, preface: bool = True) -> None:
    """Each on a connection of its own, beside the others: most are waited for in vain, for as long as a connection is."""
    async with asyncio.TaskGroup() as group:
        for data in each:
            group.create_task(_bytes(address, data, preface=preface))


async def no_preface(address: Address, _: int) -> None:
    """What speaks something else."""
    others = (
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + http2.settings(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(508),  # the beginning of a TLS handshake
        b"\x00" * 4096,
        b"SSH-2.0-OpenSSH_9.9\r\n",
        http2.PREFACE + b"\xff" * 4096,
        http2.PREFACE[:10],
    )
    await _beside(address, others, preface=False)


async def wrong_frames(address: Address, _: int) -> None:
    """Frames that RFC 9113 calls errors, one connection each."""
    opened = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, _HEADERS)
    wrong = (
        http2.frame(http2.SETTINGS, payload=b"\x00" * 5),
        http2.frame(http2.SETTINGS, stream=1, payload=b""),
        http2.frame(http2.SETTINGS, http2.ACK, payload=b"\x00" * 6),
        http2.settings(ENABLE_PUSH=7),
        http2.settings(INITIAL_WINDOW_SIZE=2**32 - 1),
        http2.settings(MAX_FRAME_SIZE=1),
        http2.settings(MAX_FRAME_SIZE=2**32 - 1),
        http2.settings(HEADER_TABLE_SIZE=2**32 - 1),
        http2.frame(http2.DATA, 0, 0, b"x"),
        http2.frame(http2.DATA, 0, 7, b"x"),
        http2.frame(http2.HEADERS, http2.END_HEADERS, 0, _HEADERS),
        http2.frame(http2.HEADERS, http2.END_HEADERS, 2, _HEADERS),
        http2.frame(http2.HEADERS, http2.END_HEADERS, 5, _HEADERS) + opened,
        http2.frame(http2.HEADERS, http2.END_HEADERS | http2.PADDED, 1, b"\xff" + _HEADERS),
        http2.frame(http2.HEADERS, http2.END_HEADERS | http2.HAS_PRIORITY, 1, struct.pack(">IB", 1, 0) + _HEADERS),
        http2.frame(http2.HEADERS, http2.END_HEADERS, 1, b""),
        http2.frame(http2.HEADERS, 0, 1, _HEADERS) + http2.frame(http2.PING, payload=bytes(8)),
        http2.frame(http2.CONTINUATION, http2.END_HEADERS, 1, _HEADERS),
        opened + http2.frame(http2.CONTINUATION, http2.END_HEADERS, 1, _HEADERS),
        opened + opened,
        opened + http2.frame(http2.DATA, http2.PADDED, 1, b"\xff"),
        opened + http2.frame(http2.DATA, http2.END_STREAM, 1, _BODY) * 3,
        opened + http2.frame(http2.DATA, 0, 1, b"x" * 16_385),
        opened + http2.frame(http2.DATA, 0, 1, b"", length=2**24 - 1),
        opened + http2.window_update(0, 1),
        opened + http2.window_update(http2.MOST, 1) * 2,
        http2.window_update(0),
        http2.window_update(http2.MOST) * 2,
        http2.frame(http2.WINDOW_UPDATE, payload=b"\x00"),
        http2.reset(0),
        http2.reset(9),
        http2.frame(http2.RST_STREAM, stream=1, payload=b"\x00"),
        http2.frame(http2.PING, payload=b"\x00" * 7),
        http2.frame(http2.PING, stream=1, payload=bytes(8)),
        http2.frame(http2.PRIORITY, stream=0, payload=bytes(5)),
        http2.frame(http2.PRIORITY, stream=1, payload=bytes(4)),
        http2.frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, struct.pack(">I", 2) + _HEADERS),
        http2.frame(http2.GOAWAY, payload=b"\x00"),
        http2.frame(http2.GOAWAY, payload=bytes(8) + b"x" * 16_000),
        http2.frame(0xEE, 0xFF, 1, b"x" * 100),
        http2.frame(http2.HEADERS, http2.END_HEADERS, http2.MOST, _HEADERS),
    )
    await _beside(address, wrong)


async def wrong_headers(address: Address, _: int) -> None:
    """Header blocks that HPACK, HTTP/2 or gRPC call errors."""
    more = (
        b"\x80",  # index 0
        http2.indexed(1_000_000),
        http2.integer(2**62, 7, 0x80),
        b"\x00" + b"\x7f" + b"\xff" * 20,  # a length that goes on
        b"\x00" + http2.text(b"a") + b"\xff\xff\xff\xff\x0f" + b"x",
        b"\x00\x81\xff" + http2.text(b""),  # Huffman's end of string
        b"\x3f\xff\xff\xff\xff\x07",  # the table shall be larger than it may
        http2.literal(b"UPPER", b"x"),
        http2.literal(b"a\x00b", b"x"),
        http2.literal(b"x", b"a\r\nevil: 1"),
        http2.literal(b"", b"x"),
        http2.literal(b":path", ECHO),
        http2.literal(b":late", b"x"),
        http2.literal(b"connection", b"close"),
        http2.literal(b"transfer-encoding", b"chunked"),
        http2.literal(b"content-length", b"-1"),
        http2.literal(b"te", b"nonsense"),
        http2.literal(b"grpc-timeout", b"99999999999S"),
        http2.literal(b"grpc-timeout", b"-1S"),
        http2.literal(b"grpc-encoding", b"nonsense"),
        http2.literal(b"grpc-accept-encoding", b"," * 1000),
        http2.literal(b"x-bin", b"!!! no base64 !!!"),
        http2.literal(b"rowcall-actor", bytes(range(128, 256))),
        http2.literal(b"traceparent", b"\xff" * 55),
    )
    blocks = [_HEADERS + each for each in more]
    blocks += [each + _HEADERS for each in more[1::2]]
    await _beside(address, [http2.frame(http2.HEADERS, http2.END_HEADERS, 1, block) + _data(1) for block in blocks])
    paths = (b"", b"/", b"*", b"//", ECHO * 500, b"/\xff/\xfe", b"/../../etc/passwd", b"http://x" + ECHO)
    kinds = (b"text/html", b"application/grpc+nonsense", b"", b"application/grpc-web")
    blocks = [http2.block(path)[:16_000] for path in paths]
    blocks += [http2.block(ECHO, (b"rowcall-tenant", STRANGER.encode()), content_type=kind) for kind in kinds]
    await _beside(address, [http2.call(1, block, _BODY) for block in blocks])


async def large_headers(address: Address, times: int) -> None:
    """Far more metadata than is taken: in one header, in many, and out of the table, where a byte stands for thousands."""
    await _bytes(address, _continued(1, _HEADERS + http2.literal(b"x", b"y" * 1_000_000)))
    await _bytes(address, _continued(1, _HEADERS + http2.literal(b"x", b"y") * 50_000))
    kept = http2.literal(b"bomb", b"x" * 4_000, kept=True)
    async with Raw.open(address) as raw:
        await raw.begin()
        await raw.send(http2.frame(http2.HEADERS, http2.END_HEADERS, 1, _HEADERS + kept) + _data(1))
        for number in range(times):
            # 62 is the youngest in the table: each of these is 4,032 bytes of a header list.
            if not await raw.send(_continued(3 + 2 * number, _HEADERS + http2.indexed(62) * 10_000)):
                break
        await raw.end(0.2)


async def continuation_flood(address: Address, times: int) -> None:
    """Headers that never end: with bytes in them, and with none."""
    for payload in (http2.literal(b"x", b"y" * 100), b""):
        async with Raw.open(address) as raw:
            await raw.begin()
            await raw.send(http2.frame(http2.HEADERS, 0, 1, _HEADERS))
            await raw.flood(http2.frame(http2.CONTINUATION, 0, 1, payload), 1_000 * times)
            await raw.end(0.2)


async def rapid_reset(address: Address, times: int) -> None:
    """Calls that are cancelled as they are made: whole ones, and such as have not said yet what they want."""
    for body in (_data, lambda _stream: b""):
        async with Raw.open(address) as raw:
            await raw.begin()
            stream = 1
            for _ in range(10 * times):
                calls = [
                    http2.frame(http2.HEADERS, http2.END_HEADERS, each, _HEADERS) + body(each) + http2.reset(each)
                    for each in range(stream, stream + 200, 2)
                ]
                stream += 200
                if not await raw.send(http2.joined(calls)):
                    break
            await raw.end(0.2)


async def settings_flood(address: Address, times: int) -> None:
    """Settings, each to be acknowledged, by one who reads no acknowledgement; and a window that moves with each."""
    for data in (http2.settings(), http2.settings(INITIAL_WINDOW_SIZE=0) + http2.settings(INITIAL_WINDOW_SIZE=65_535)):
        async with Raw.open(address) as raw:
            await raw.begin()
            await raw.send(http2.joined([http2.frame(http2.HEADERS, http2.END_HEADERS, 1, _HEADERS)]))
            raw.hears.clear()
            await raw.flood(data, 1_000 * times)


async def ping_flood(address: Address, times: int) -> None:
    """Pings, each to be answered, by one who reads no answers."""
    async with Raw.open(address) as raw:
        await raw.begin()
        raw.hears.clear()
        await raw.flood(http2.frame(http2.PING, payload=b"floodedx"), 2_000 * times)


async def empty_frames(address: Address, times: int) -> None:
    """Frames that say nothing and cost the one who sends them nothing."""
    opened = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, _HEADERS)
    for data in (
        http2.frame(http2.DATA, 0, 1),
        http2.frame(http2.PRIORITY, stream=3, payload=struct.pack(">IB", 1, 1)),
        http2.window_update(1),
        http2.frame(0xBE, 0, 0, b""),
        http2.frame(http2.GOAWAY, payload=bytes(8)),
    ):
        async with Raw.open(address) as raw:
            await raw.begin()
            await raw.send(opened)
            await raw.flood(data, 1_000 * times)


async def many_streams(address: Address, times: int) -> None:
    """Calls that are begun and never say what they want, as many as a connection lets one."""
    async with Raw.open(address) as raw:
        await raw.begin()
        for start in range(1, 2_000 * times, 200):
            calls = [
                http2.frame(http2.HEADERS, http2.END_HEADERS, each, _HEADERS) for each in range(start, start + 200, 2)
            ]
            if not await raw.send(http2.joined(calls)):
                break
        await raw.end(_SECONDS)


async def answers_not_read(address: Address, times: int) -> None:
    """Calls whose answers do not get out: the caller's window is shut, or it reads nothing of what comes."""
    path = b"/grpc.health.v1.Health/Check"
    for first, deaf in ((http2.settings(INITIAL_WINDOW_SIZE=0), False), (None, True)):
        async with Raw.open(address) as raw:
            await raw.begin(first)
            if deaf:
                raw.hears.clear()
            for start in range(1, 400 * times, 200):
                calls = [
                    http2.call(each, http2.block(path), http2.message(b"")) for each in range(start, start + 200, 2)
                ]
                if not await raw.send(http2.joined(calls)):
                    break
            await raw.end(_SECONDS)


async def oversize(address: Address, times: int) -> None:
    """Messages larger than what is taken: as they say, as they are, and as they become when they are unpacked."""
    opened = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, _HEADERS)
    packed = http2.frame(
        http2.HEADERS,
        http2.END_HEADERS,
        1,
        http2.block(ECHO, (b"grpc-encoding", b"gzip"), (b"rowcall-tenant", STRANGER.encode())),
    )
    await _bytes(address, opened + http2.frame(http2.DATA, 0, 1, http2.message(b"x", length=2**32 - 1)))
    await _bytes(address, opened + http2.frame(http2.DATA, 0, 1, http2.message(b"x", length=2**31)))
    await _bytes(address, opened + http2.frame(http2.DATA, http2.END_STREAM, 1, b"\x00\x00"))
    await _bytes(address, packed + http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"no gzip", flag=1)))
    await _bytes(address, opened + http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"no encoding", flag=1)))
    await _bytes(address, opened + http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"x", flag=255)))
    bomb = http2.message(gzip.compress(bytes(200_000_000 * min(times, 4)), 9), flag=1)
    async with Raw.open(address) as raw:
        await raw.begin()
        await raw.send(packed)
        for start in range(0, len(bomb), 16_000):
            # What a window of 64 KiB does not let through is not sent: the server opens it as it reads.
            last = http2.END_STREAM if start + 16_000 >= len(bomb) else 0
            if not await raw.send(http2.frame(http2.DATA, last, 1, bomb[start : start + 16_000])):
                break
            await asyncio.sleep(0.02)
        await raw.end(2)


async def unfinished(address: Address, times: int) -> None:
    """Large messages on every stream of a connection, each of which goes on and on and is never whole."""
    async with Raw.open(address) as raw:
        await raw.begin()
        streams = range(1, 2 * 400, 2)
        begun = http2.message(b"", length=7_000_000)
        for stream in streams:
            opened = http2.frame(http2.HEADERS, http2.END_HEADERS, stream, _HEADERS)
            await raw.send(opened + http2.frame(http2.DATA, 0, stream, begun))
        for _ in range(8 * times):
            parts = [http2.frame(http2.DATA, 0, stream, bytes(16_000)) for stream in streams]
            if not await raw.send(*parts):
                break
        await raw.end(_SECONDS)


async def tokens(address: Address, times: int) -> None:
    """Calls with what is no token, in all the ways that we could think of; whole ones, many at once."""
    nested = base64.urlsafe_b64encode(b'{"a":' * 2_000).rstrip(b"=")
    values = (
        b"",
        b"Bearer",
        b"Bearer ",
        b"bearer \x00",
        b"Bearer " + bytes(range(128, 256)),
        b"Bearer ..",
        b"Bearer a.b.c",
        b"Bearer " + b"." * 8_000,
        b"Bearer " + b"A" * 12_000 + b".A.A",
        b"Bearer e30.e30.",
        b"Bearer eyJhbGciOiJub25lIn0.e30.AA",  # {"alg":"none"}
        b"Bearer eyJhbGciOiJSUzI1NiIsImFsZyI6Im5vbmUifQ.e30.AA",  # twice
        b"Bearer eyJhbGciOjF9.e30.AA",  # {"alg":1}
        b"Bearer " + nested + b".e30.AA",
        b"Bearer eyJhbGciOiJSUzI1NiJ9." + nested + b".AA",
        b"Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOjFlOTk5OX0.AA",  # {"iss":1e9999}
        b"Basic YTpi",
        b"Digest " + b"x" * 1_000,
    )
    blocks = [
        http2.block(ECHO, (b"rowcall-tenant", STRANGER.encode()), *more)
        for value in values
        for more in ([(b"authorization", value)], [(b"authorization", value), (b"authorization", value)])
    ]
    for _ in range(times):
        async with Raw.open(address) as raw:
            await raw.begin()
            await raw.send(
                http2.joined([http2.call(1 + 2 * number, block, _BODY) for number, block in enumerate(blocks)])
            )
            await raw.end(0.5)


async def slow_clients(address: Address, times: int) -> None:
    """Many connections that begin, each at another point, and go no further; and some that send a byte at a time."""
    begun: tuple[bytes, ...] = (
        b"",
        http2.PREFACE[:12],
        http2.PREFACE,
        http2.PREFACE + http2.settings(),
        http2.PREFACE + http2.settings()[:5],
    )
    begun += (http2.PREFACE + http2.settings() + http2.frame(http2.HEADERS, 0, 1, _HEADERS[:20]),)
    begun += (http2.PREFACE + http2.settings() + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, _HEADERS),)
    whole = http2.PREFACE + http2.settings() + http2.call(1, _HEADERS, _BODY)
    async with AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(Raw.open(address)) for _ in range(40 * times)]
        for number, raw in enumerate(raws):
            await raw.send(begun[number % len(begun)])
        dripping = [await stack.enter_async_context(Raw.open(address)) for _ in range(5)]
        for at in range(60):
            for raw in dripping:
                await raw.send(whole[at : at + 1])
            await asyncio.sleep(_SECONDS / 60)


async def dice(address: Address, times: int) -> None:
    """Frames of any kind, with any flags, of any stream, with any payload."""
    chance = random.Random(times)

    def frame() -> bytes:
        return http2.frame(
            chance.choice((*range(10), 0xFF)),
            chance.randrange(256),
            chance.choice((0, 1, 1, 3, 5, 2, http2.MOST)),
            chance.choice((b"", _HEADERS, _BODY, chance.randbytes(8), chance.randbytes(chance.randint(0, 2_000)))),
        )

    for _ in range(times):
        await _beside(address, [http2.joined([frame() for _ in range(30)]) for _ in range(10)])


def _data(stream: int) -> bytes:
    return http2.frame(http2.DATA, http2.END_STREAM, stream, _BODY)


def _continued(stream: int, block: bytes) -> bytes:
    """A header block in as many frames as it takes, and the call's message."""
    parts = [block[start : start + 16_000] for start in range(0, len(block), 16_000)]
    kinds = [http2.HEADERS] + [http2.CONTINUATION] * (len(parts) - 1)
    frames = [
        http2.frame(kind, http2.END_HEADERS if number == len(parts) - 1 else 0, stream, part)
        for number, (kind, part) in enumerate(zip(kinds, parts, strict=True))
    ]
    return http2.joined(frames) + _data(stream)


ATTACKS: Final[Mapping[str, Attack]] = {
    attack.__name__: attack
    for attack in (
        no_preface,
        wrong_frames,
        wrong_headers,
        large_headers,
        continuation_flood,
        rapid_reset,
        settings_flood,
        ping_flood,
        empty_frames,
        many_streams,
        answers_not_read,
        oversize,
        tokens,
        slow_clients,
        dice,
    )
}

NOBODYS: Final[Mapping[str, Attack]] = {"unfinished": unfinished}
"""What those who are known to nobody come to nothing with. Who may call may also have a message held, as large as it may be."""

CALLING: Final = ("wrong_headers", "rapid_reset", "many_streams", "oversize", "tokens")
"""Those of which calls come about, or would if it were known who calls."""
