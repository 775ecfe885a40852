"""The job types of the chaos tests, in the worker's process: `--servicer tests.chaos.handlers:register`.

They are the probe's methods with effects that can be counted afterwards. Every start of a handler is noted in a file, in
one write that lies in one page, so that not even a kill -9 hides it. Run writes its effect through the job's own transaction; Await has none.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from pathlib import Path

import grpc.aio
from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message

from rowcall.probe.v1.probe_pb2 import AwaitRequest, AwaitResponse, EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceServicer, add_ProbeServiceServicer_to_server
from rowcall_worker import AsyncJobContext, JobContext, Worker, finished
from rowcall_worker.probe import EXIT_CODE
from tests.chaos.effects import INSERT_EFFECT, note
from tests.chaos.receipts import Receipt
from tests.support.waiting import until

STARTS = "CHAOS_STARTS"
"""The variable that names the folder for the notes of handlers' starts."""
GATE = "CHAOS_GATE"
"""The variable that names a file which Await waits for before it answers, if it is set."""
GATE_SECONDS = 300.0


class Effects(ProbeServiceServicer):
    """Does what its requests say, and leaves a trace of it."""

    def __init__(self, starts: Path, gate: Path | None) -> None:
        self._starts = os.open(starts / f"{os.getpid()}.starts", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._gate = gate

    async def Echo(  # noqa: N802  the proto names it
        self, request: EchoRequest, context: grpc.aio.ServicerContext[Message, Message]
    ) -> EchoResponse:
        return EchoResponse(payload=self._begin(request.payload, context).encode())

    async def Await(  # noqa: N802
        self, request: AwaitRequest, context: grpc.aio.ServicerContext[Message, Message]
    ) -> AwaitResponse:
        """Blocks the event loop for `busy`, then leaves it free for `work`."""
        receipt = self._begin(request.payload, context)
        if request.exit_process:
            os._exit(EXIT_CODE)
        time.sleep(request.busy.ToTimedelta().total_seconds())  # noqa: ASYNC251  what is tested
        await asyncio.sleep(request.work.ToTimedelta().total_seconds())
        gate = self._gate
        if gate is not None:
            await until(gate.exists, seconds=GATE_SECONDS)
        return AwaitResponse(payload=receipt.encode())

    async def Run(  # noqa: N802
        self, request: RunRequest, context: grpc.aio.ServicerContext[Message, Message]
    ) -> Operation:
        """Half of the work before its effect is written, half after: a fault finds it on either side."""
        receipt = self._begin(request.payload, context)
        half = request.work.ToTimedelta().total_seconds() / 2
        await asyncio.sleep(half)
        assert isinstance(context, AsyncJobContext)
        async with context.transaction() as connection:
            await connection.execute(INSERT_EFFECT, [receipt.call, receipt.run, receipt.lease])
            await asyncio.sleep(half)
        return finished(RunResponse(payload=receipt.encode()))

    def _begin(self, payload: bytes, context: object) -> Receipt:
        assert isinstance(context, JobContext)
        receipt = Receipt(int(payload), secrets.token_hex(8), context._state.job.lease)
        os.write(self._starts, note(receipt))
        return receipt


def register(worker: Worker) -> None:
    """Registers the servicer; the worker leaves its own probe out then."""
    gate = os.environ.get(GATE)
    servicer = Effects(Path(os.environ[STARTS]), Path(gate) if gate else None)
    add_ProbeServiceServicer_to_server(servicer, worker)
