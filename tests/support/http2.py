"""HTTP/2 by hand, right and wrong: frames as bytes, and a connection that sends what it is told and reads what it can.

For tests of what no client library would send. RFC 9113 (HTTP/2), RFC 7541 (HPACK, of which only what needs no table and no
Huffman code is written), and gRPC's PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final, Self

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST = range(
    1, 7
)
CANCEL: Final = 8
MOST: Final = (1 << 31) - 1
"""The largest window, and the last stream."""


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """One frame; `length`: what it says of its payload, if not the truth."""
    said = len(payload) if length is None else length
    return struct.pack(">I", said)[1:] + bytes((kind & 0xFF, flags & 0xFF)) + struct.pack(">I", stream) + payload


def settings(**values: int) -> bytes:
    """A SETTINGS frame: settings(INITIAL_WINDOW_SIZE=0)."""
    return frame(
        SETTINGS, payload=b"".join(struct.pack(">HI", globals()[name], value) for name, value in values.items())
    )


def window_update(increment: int, stream: int = 0) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, stream=stream, payload=struct.pack(">I", increment))


def reset(stream: int, code: int = CANCEL) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, stream=stream, payload=struct.pack(">I", code))


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """A number as HPACK writes it, behind the upper bits of its first byte (RFC 7541, 5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((first | value,))
    found = bytearray((first | limit,))
    value -= limit
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def text(value: bytes) -> bytes:
    """A string as HPACK writes it without Huffman's code."""
    return integer(len(value), 7) + value


def literal(name: bytes, value: bytes, *, kept: bool = False) -> bytes:
    """A header; `kept`: the peer puts it into its table."""
    return (b"\x40" if kept else b"\x00") + text(name) + text(value)


def indexed(index: int) -> bytes:
    """A header that is in the table."""
    return integer(index, 7, 0x80)


def block(path: bytes, *more: tuple[bytes, bytes], content_type: bytes = b"application/grpc") -> bytes:
    """The header block of a gRPC call."""
    pairs = (
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", content_type),
        *more,
    )
    return b"\x83\x86" + b"".join(literal(name, value) for name, value in pairs)  # :method POST, :scheme http


def message(data: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message with its five bytes before it."""
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


def call(stream: int, headers: bytes, body: bytes) -> bytes:
    """A whole unary call, of at most one DATA frame."""
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, body)


class Raw:
    """A TCP connection. What the server sends is read all the time, and counted by kind of frame, until `deaf` is set."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen: Counter[int] = Counter()
        """How many frames of each kind the server has sent."""
        self.announced: dict[int, int] = {}
        """The settings that the server has announced."""
        self.ended = asyncio.Event()
        """The server has closed the connection, or broken it."""
        self.hears = asyncio.Event()
        """While it is not set, nothing is read."""
        self.hears.set()
        self._reader = reader
        self._writer = writer
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, address: tuple[str, int]) -> AsyncIterator[Self]:
        """Connects; the connection is broken off at the end."""
        made = cls(*await asyncio.open_connection(*address))
        try:
            yield made
        finally:
            made._reading.cancel()
            await asyncio.gather(made._reading, return_exceptions=True)
            made._writer.transport.abort()

    async def begin(self, first: bytes | None = None) -> None:
        """The preface, and the first SETTINGS."""
        await self.send(PREFACE + (settings() if first is None else first) + frame(SETTINGS, ACK))

    async def send(self, *data: bytes) -> bool:
        """Sends; whether the connection is still there. What the server does not take within seconds is given up."""
        with contextlib.suppress(OSError, TimeoutError):
            for each in data:
                self._writer.write(each)
            async with asyncio.timeout(5):
                await self._writer.drain()
        return not self.ended.is_set()

    async def flood(self, data: bytes, times: int, *, at_once: int = 500) -> None:
        """Sends the same again and again, until the connection is gone."""
        for start in range(0, times, at_once):
            if not await self.send(data * min(at_once, times - start)):
                return
            await asyncio.sleep(0)

    async def end(self, seconds: float) -> bool:
        """Waits for the server to end the connection; whether it has."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), seconds)
        return self.ended.is_set()

    async def _read(self) -> None:
        try:
            while True:
                await self.hears.wait()
                head = await self._reader.readexactly(9)
                self.seen[head[3]] += 1
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == SETTINGS:
                    self.announced.update(struct.iter_unpack(">HI", payload))
        except (OSError, asyncio.IncompleteReadError):
            self.ended.set()


def joined(frames: Sequence[bytes]) -> bytes:
    """Frames one after another."""
    return b"".join(frames)
