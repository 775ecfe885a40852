"""A servicer that answers with the time at which its first line ran. For `start`; served by `--servicer`."""

from __future__ import annotations

import struct
import time

import grpc.aio
from google.protobuf.message import Message

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.probe.v1.probe_pb2_grpc import add_ProbeServiceServicer_to_server
from rowcall_worker.probe import ProbeServicer


class FirstLine(ProbeServicer):
    """Echo, with the time."""

    async def Echo(  # noqa: N802  the proto names it
        self, request: EchoRequest, context: grpc.aio.ServicerContext[Message, Message]
    ) -> EchoResponse:
        return EchoResponse(payload=struct.pack("d", time.monotonic()))


def register(worker: grpc.aio.Server) -> None:
    """What `--servicer` names."""
    add_ProbeServiceServicer_to_server(FirstLine("first line"), worker)


def read(response: EchoResponse) -> float:
    """The time in it: seconds of time.monotonic, which the processes of one machine share."""
    found: float = struct.unpack("d", response.payload)[0]
    return found
