"""HTTP/2 by hand: a call as frames, whatever its bytes, and a connection that sends them and counts what comes back.

For tests of what no client library would send. RFC 9113 (HTTP/2), RFC 7541 (HPACK, of which only what needs no table and no
Huffman code is written), and gRPC's PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final, Self

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def text(value: bytes) -> bytes:
    """A string as HPACK writes it without Huffman's code."""
    assert len(value) < 127, "longer lengths have another form"
    return bytes((len(value),)) + value


def block(path: bytes) -> bytes:
    """The header block of a gRPC call."""
    pairs = (
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    # :method POST, :scheme http, and literals
    return b"\x83\x86" + b"".join(b"\x00" + text(name) + text(value) for name, value in pairs)


def message(data: bytes) -> bytes:
    """A gRPC message with its five bytes before it."""
    return struct.pack(">BI", 0, len(data)) + data


def call(stream: int, headers: bytes, body: bytes) -> bytes:
    """A whole unary call, of at most one DATA frame."""
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, body)


class Raw:
    """A TCP connection. What the server sends is read all the time, and counted by kind of frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen: Counter[int] = Counter()
        """How many frames of each kind the server has sent."""
        self._reader = reader
        self._writer = writer
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, address: tuple[str, int]) -> AsyncIterator[Self]:
        """Connects, and begins with the preface and the first SETTINGS; the connection is broken off at the end."""
        made = cls(*await asyncio.open_connection(*address))
        try:
            await made.send(PREFACE + frame(SETTINGS) + frame(SETTINGS, ACK))
            yield made
        finally:
            made._reading.cancel()
            await asyncio.gather(made._reading, return_exceptions=True)
            made._writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Sends."""
        self._writer.write(data)
        await self._writer.drain()

    async def _read(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(9)
                self.seen[head[3]] += 1
                await self._reader.readexactly(int.from_bytes(head[:3], "big"))
