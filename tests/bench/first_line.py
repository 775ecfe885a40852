"""A servicer that answers with the time at which its first line ran. For `start`; served by `--servicer`.

Who does not wait for the answer is told by a datagram, as other queues' workers write a line.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from typing import Final

import grpc.aio
from google.protobuf.message import Message

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.probe.v1.probe_pb2_grpc import add_ProbeServiceServicer_to_server
from rowcall_worker.probe import ProbeServicer

SOCKET: Final = "BENCH_FIRST_LINE"
"""The environment variable that names the Unix socket to tell; whether somebody listens there is left open."""


class FirstLine(ProbeServicer):
    """Echo, with the time."""

    def __init__(self) -> None:
        super().__init__("first line")
        self._address = os.environ.get(SOCKET)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    async def Echo(  # noqa: N802  the proto names it
        self, request: EchoRequest, context: grpc.aio.ServicerContext[Message, Message]
    ) -> EchoResponse:
        at = struct.pack("d", time.monotonic())
        if self._address is not None:
            # Nobody may listen in this round.
            with contextlib.suppress(OSError):
                self._socket.sendto(at, self._address)
        return EchoResponse(payload=at)


def register(worker: grpc.aio.Server) -> None:
    """What `--servicer` names."""
    add_ProbeServiceServicer_to_server(FirstLine(), worker)


def read(payload: bytes) -> float:
    """The time in an answer's payload or a datagram: seconds of time.monotonic, which the processes of one machine share."""
    found: float = struct.unpack("d", payload)[0]
    return found
