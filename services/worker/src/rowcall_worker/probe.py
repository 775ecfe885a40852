"""The built-in job types, done: echo, work, hold the interpreter lock, fail, answer at length, die. As told.

An ordinary servicer of the generated ProbeService; registered by `rowcall_worker.worker` unless told otherwise.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import grpc
import grpc.aio
from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code

from rowcall.errors import RowcallError
from rowcall.probe.v1.probe_pb2 import AwaitRequest, AwaitResponse, EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceServicer
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_worker.serving.context import JobContext
from rowcall_worker.serving.operations import finished

EXIT_CODE = 70
"""What a worker exits with when a probe ends it (EX_SOFTWARE of sysexits.h)."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_Context = grpc.aio.ServicerContext[Message, Message]


class ProbeServicer(ProbeServiceServicer):
    """Does what its requests say."""

    def __init__(self, worker: str, *, allow_faults: bool = False) -> None:
        """Args:
        worker: The name that responses carry.
        allow_faults: Whether a request may end this process.
        """
        self._worker = worker
        self._allow_faults = allow_faults

    async def Echo(self, request: EchoRequest, context: _Context) -> EchoResponse:  # noqa: N802  the proto names it
        """Answers with the payload it got."""
        return EchoResponse(payload=request.payload, worker=self._worker, attempt=_attempt(context))

    async def Run(self, request: RunRequest, context: _Context) -> Operation:  # noqa: N802
        """Works as told and answers with a finished operation."""
        payload = await self._work(request, context)
        return finished(RunResponse(payload=payload, worker=self._worker, attempt=_attempt(context)))

    async def Await(self, request: AwaitRequest, context: _Context) -> AwaitResponse:  # noqa: N802
        """Works as told and answers with the response."""
        payload = await self._work(request, context)
        return AwaitResponse(payload=payload, worker=self._worker, attempt=_attempt(context))

    async def _work(self, request: RunRequest | AwaitRequest, context: _Context) -> bytes:
        if request.exit_process and not self._allow_faults:
            raise RowcallError(
                ErrorReason.ERROR_REASON_FAULTS_NOT_ALLOWED,
                "The request asks to end the worker's process, and the worker was not started with --allow-faults.",
            )
        work = request.work.ToTimedelta().total_seconds()
        if work > 0:
            await asyncio.sleep(work)
        busy = request.busy.ToTimedelta().total_seconds()
        if busy > 0:
            hold_interpreter_lock(busy)
        if request.exit_process:
            os._exit(EXIT_CODE)
        attempt = _attempt(context)
        if request.fail_code != Code.OK and (request.fail_attempts == 0 or attempt <= request.fail_attempts):
            code = _CODES.get(request.fail_code, grpc.StatusCode.UNKNOWN)
            await context.abort(code, f"The probe was told to fail with {code.name}.")
        return bytes(request.response_bytes) if request.response_bytes > 0 else request.payload


def hold_interpreter_lock(seconds: float) -> None:
    """Computes for so long without letting another thread of the process run.

    A thread that wants the interpreter lock asks for it after the switch interval (5 ms by default), so a mere loop
    would give it up again and again, and time.sleep at once. The interval is a setting: for the length of the loop it is
    longer than the loop. A thread that already waits is let in once, at the beginning.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval + 2 * seconds)
    try:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
    finally:
        sys.setswitchinterval(interval)


def _attempt(context: object) -> int:
    """Which attempt; 1 when the servicer is served directly."""
    return context.attempt if isinstance(context, JobContext) else 1
