"""A servicer that ends its process as one ends that is done: `--servicer …leaving:register`."""

from __future__ import annotations

import os

import grpc.aio
from google.protobuf.message import Message

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.probe.v1.probe_pb2_grpc import add_ProbeServiceServicer_to_server
from rowcall_worker import Worker
from rowcall_worker.probe import ProbeServicer


class Leaving(ProbeServicer):
    """Ends the process with exit code 0."""

    async def Echo(  # noqa: N802  the proto names it
        self, request: EchoRequest, context: grpc.aio.ServicerContext[Message, Message]
    ) -> EchoResponse:
        os._exit(0)


def register(worker: Worker) -> None:
    """Registers the servicer."""
    add_ProbeServiceServicer_to_server(Leaving(worker.name), worker)
