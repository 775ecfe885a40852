"""A bare grpc.aio echo under uvloop, with the gateway's server options: `python -m tests.bench.echo`. What any gateway costs.

Echo answers with the request's payload; Run with an unfinished operation of as many bytes as the gateway's own.
"""

from __future__ import annotations

import grpc.aio
import uvloop
from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message
from uuid_utils.compat import uuid7

from rowcall.names import operation_name
from rowcall.probe.v1.probe_pb2 import AwaitRequest, AwaitResponse, EchoRequest, EchoResponse, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceServicer, add_ProbeServiceServicer_to_server
from rowcall.v1.job_pb2 import JobMetadata, JobState

_Context = grpc.aio.ServicerContext[Message, Message]


class Echo(ProbeServiceServicer):
    """Answers at once."""

    def __init__(self) -> None:
        self._operation = _operation()

    async def Echo(self, request: EchoRequest, context: _Context) -> EchoResponse:  # noqa: N802  the proto names it
        return EchoResponse(payload=request.payload, worker="bare-echo-1234-abcdef", attempt=1)

    async def Run(self, request: RunRequest, context: _Context) -> Operation:  # noqa: N802
        return self._operation

    async def Await(self, request: AwaitRequest, context: _Context) -> AwaitResponse:  # noqa: N802
        return AwaitResponse(payload=request.payload)


def _operation() -> Operation:
    made = Operation(name=operation_name("bench", uuid7()))
    metadata = JobMetadata(
        method="rowcall.probe.v1.ProbeService/Run", queue="probe", state=JobState.JOB_STATE_READY, trace_id="0" * 32
    )
    metadata.create_time.GetCurrentTime()
    made.metadata.Pack(metadata)
    return made


async def serve() -> None:
    """Serves until it is killed."""
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", 8 * 1024 * 1024),
            ("grpc.max_send_message_length", -1),
        )
    )
    add_ProbeServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve())
