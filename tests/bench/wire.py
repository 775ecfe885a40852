"""Unary gRPC calls at next to no cost: HTTP/2 frames put together by hand, for `load`.

A stock client costs about as much as the server that it measures, on the same two cores. This one sends each call as one
HEADERS frame and its DATA, cut out of templates, and reads of an answer its grpc-status and, where that is wanted, its
message. It can do what the benchmarks need and nothing else. RFC 9113 (HTTP/2), RFC 7541 (HPACK), and gRPC's PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import struct
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

PLACE: Final = b"0123456789abcdef"
"""What stands in a template where each call has its number, as sixteen hexadecimal digits."""

TURNED: Final = b"fedcba9876543210"
"""The same of the digits turned round, in headers: of calls in a row these are spread over all there are, as random ones would be."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE = 1, 2, 4
_WINDOW: Final = (1 << 31) - 1
_FIRST_WINDOW: Final = 65_535
"""Bytes that a connection lets through before the receiver said more. RFC 9113, section 6.9.2."""
_FRAME: Final = 16_384
"""Bytes in a frame that every peer takes."""
_STATUS: Final = b"\x0bgrpc-status"
_FIRST_IN_TABLE: Final = bytes([0x80 | 62])
"""The header that was put into the table last. RFC 7541, sections 6.1 and 2.3.3."""
_CUT: Final = -1
"""The status of a call that was answered by no status: its stream or connection was ended."""


def template(path: str, metadata: Sequence[tuple[str, str]], authority: str, deadline: float = 60.0) -> bytes:
    """The HPACK block of a call's headers: literals, so that a number can be put into it; `deadline`: seconds that it has."""
    block = bytearray(b"\x83\x86")  # :method POST, :scheme http
    for name, value in (
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", f"{deadline * 1000:.0f}m"),
        *metadata,
    ):
        for text in (name.encode(), value.encode()):
            assert len(text) < 127, "longer lengths have another form"
            if text == name.encode():
                block.append(0)
            block.append(len(text))
            block += text
    return bytes(block)


@dataclass(slots=True)
class Tally:
    """What became of the calls."""

    statuses: Counter[int] = field(default_factory=Counter)
    """How many were answered with which grpc-status; -1: with none."""
    began: array[float] = field(default_factory=lambda: array("d"))
    """When each call that was answered was sent: seconds of time.perf_counter."""
    took: array[float] = field(default_factory=lambda: array("d"))
    """Seconds until its answer was there, in the same order."""
    messages: list[bytes] | None = None
    """The messages of answers, where they are wanted; those that come in one frame each."""


class Wire(asyncio.Protocol):
    """One connection. Calls are begun by `call`; `ended` is told after each read of how many have ended in it."""

    def __init__(
        self,
        headers: bytes,
        body: bytes,
        tally: Tally,
        ended: Callable[[Wire, int], None],
        *,
        tokens: Sequence[bytes] = (),
    ) -> None:
        """Args:
        headers: A `template`.
        body: The request message; PLACE in it is replaced as in the headers.
        tally: Where answers are counted.
        ended: Called with this connection and the number of calls.
        tokens: Bearer tokens that calls bring in turn. A single one is sent once and then by its number in the table, as
            clients do.
        """
        self._tokens = tokens
        self._told_token = False
        self._headers = headers.split(PLACE)
        self._turns = TURNED in headers
        self._body = (b"\0" + struct.pack(">I", len(body)) + body).split(PLACE)
        self._body_bytes = len(body) + 5
        assert self._body_bytes <= _FIRST_WINDOW, "a stream's window is not watched, only the connection's"
        self._tally = tally
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._out: list[bytes] = []
        self._blocked: deque[list[bytes]] = deque()
        self._window = _FIRST_WINDOW
        self._given = 0
        self._stream = -1
        self._begun: dict[int, float] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False
        """Whether the connection was ended by the other side."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's is not asyncio's by inheritance
        settings = struct.pack(">HIHIHI", _HEADER_TABLE_SIZE, 0, _ENABLE_PUSH, 0, _INITIAL_WINDOW_SIZE, _WINDOW)
        self._send(_PREFACE, _frame(_SETTINGS, 0, 0, settings), self._give(_WINDOW - _FIRST_WINDOW))
        self.flush()

    async def ready(self) -> None:
        """Waits until the server has said what it takes."""
        await self._ready

    def call(self, number: int) -> None:
        """Begins a call; it is sent with the next `flush`."""
        digits = b"%016x" % number
        self._stream += 2
        headers = digits.join(self._headers)
        if self._turns:
            headers = headers.replace(TURNED, digits[::-1])
        if self._tokens:
            headers += self._token(number)
        body = digits.join(self._body)
        frames = [_frame(_HEADERS, _END_HEADERS, self._stream, headers)]
        for begin in range(0, len(body), _FRAME):
            part = body[begin : begin + _FRAME]
            frames.append(_frame(_DATA, _END_STREAM if begin + _FRAME >= len(body) else 0, self._stream, part))
        self._begun[self._stream] = time.perf_counter()
        if self._blocked or self._window < self._body_bytes:
            self._blocked.append(frames)
        else:
            self._window -= self._body_bytes
            self._out += frames

    def _token(self, number: int) -> bytes:
        """The header of a call's token."""
        if len(self._tokens) > 1:
            return b"\0" + _authorization(self._tokens[number % len(self._tokens)])
        if self._told_token:
            return _FIRST_IN_TABLE
        self._told_token = True
        return b"\x40" + _authorization(self._tokens[0])

    def flush(self) -> None:
        """Sends what was begun."""
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._end_all()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at, have, done = 0, len(received), 0
        while have - at >= 9:
            size = int.from_bytes(received[at : at + 3], "big")
            if have - at - 9 < size:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9], "big") & 0x7FFFFFFF
            payload = received[at + 9 : at + 9 + size]
            at += 9 + size
            if kind == _DATA:
                self._given -= size
                if self._tally.messages is not None and size:
                    self._tally.messages.append(bytes(payload[5:]))
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    self._answered(stream, _status(payload))
                    done += 1
            elif kind == _RST_STREAM:
                if stream in self._begun:
                    self._answered(stream, _CUT)
                    done += 1
            else:
                self._control(kind, flags, payload, stream)
        del received[:at]
        if self._given < _WINDOW // 2:
            self._send(self._give(_WINDOW - self._given))
        if done:
            self._ended(self, done)
        self.flush()

    def _control(self, kind: int, flags: int, payload: bytearray, stream: int) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._send(_frame(_SETTINGS, _ACK, 0, b""))
            if not self._ready.done():
                self._ready.set_result(None)
        elif kind == _PING and not flags & _ACK:
            self._send(_frame(_PING, _ACK, 0, bytes(payload)))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big") & 0x7FFFFFFF
            while self._blocked and self._window >= self._body_bytes:
                self._window -= self._body_bytes
                self._out += self._blocked.popleft()
        elif kind == _GOAWAY:
            self.lost = True
        assert kind != _CONTINUATION, "an answer's headers came in several frames, which is not read here"

    def _answered(self, stream: int, status: int) -> None:
        began = self._begun.pop(stream)
        tally = self._tally
        tally.statuses[status] += 1
        tally.began.append(began)
        tally.took.append(time.perf_counter() - began)

    def _end_all(self) -> None:
        cut = list(self._begun)
        for stream in cut:
            self._answered(stream, _CUT)
        if not self._ready.done():
            self._ready.set_exception(ConnectionError("the server ended the connection before it said what it takes"))
        if cut:
            self._ended(self, len(cut))

    def _give(self, size: int) -> bytes:
        """Lets the server send so many bytes more on the connection; streams may send as much as they like."""
        self._given += size
        return _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", size))

    def _send(self, *frames: bytes) -> None:
        self._out += frames


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return b"%b%b%b" % (len(payload).to_bytes(3, "big"), struct.pack(">BBI", kind, flags, stream), payload)


def _authorization(token: bytes) -> bytes:
    """The name and the value of a token's header, as literals."""
    value = b"Bearer " + token
    length, rest = bytearray([127]), len(value) - 127
    while rest >= 128:
        length.append(rest & 127 | 128)
        rest >>= 7
    length.append(rest)
    # RFC 7541, section 5.1: a length that does not fit into seven bits.
    return b"\x0dauthorization" + bytes(length) + value


def _status(block: bytearray) -> int:
    """The grpc-status of trailers. The table of headers has size 0, so that the name stands there as it is."""
    at = block.find(_STATUS)
    if at < 0:
        return _CUT
    at += len(_STATUS)
    return int(block[at + 1 : at + 1 + block[at]])
