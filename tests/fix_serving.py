"""Fixtures: one sync servicer object, served directly by grpc_testing's server and run behind the queue without a shard."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import grpc
import grpc_testing
import pytest
from google.longrunning.operations_pb2 import Operation
from google.rpc.status_pb2 import Status

from rowcall.catalogue.images import load_catalogue
from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, AwaitResponse, EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.queue.model import ClaimedJob, PolicyRow, Settlement
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import finished
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.running.executor import Executor
from rowcall_worker.serving.handlers import Registry
from tests.support.waiting import until

PROBE = probe_pb2.DESCRIPTOR.services_by_name["ProbeService"]
SECONDS = 20.0
"""How long a test waits for an outcome."""
TIMEOUT = 8.0
"""Seconds that a call is given: its caller's deadline, or its method's timeout."""
REQUEST = EchoRequest(payload=b"p")

Handle = Callable[[EchoRequest, Any], EchoResponse]


class Servicer(probe_pb2_grpc.ProbeServiceServicer):
    """An ordinary servicer in plain `def`, that does as a test says."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def Echo(self, request: EchoRequest, context: Any) -> EchoResponse:  # noqa: N802  the proto names it
        return self._handle(request, context)

    def Run(self, request: RunRequest, context: Any) -> Operation:  # noqa: N802  the proto names it
        return finished(RunResponse(payload=request.payload))

    def Await(self, request: AwaitRequest, context: Any) -> AwaitResponse:  # noqa: N802  the proto names it
        return AwaitResponse(payload=request.payload)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller is told."""

    code: grpc.StatusCode
    message: str = ""
    payload: bytes | None = None


class Sink:
    """Takes the outcomes of attempts that are no shard's."""

    def __init__(self) -> None:
        self.settled: asyncio.Queue[Settlement] = asyncio.Queue()
        self.abilities: Any = SimpleNamespace(progress=SimpleNamespace(forget=lambda job: None))

    def settle(self, attempt: Attempt, settlement: Settlement) -> None:
        self.settled.put_nowait(settlement)

    def ended(self, attempt: Attempt) -> None:
        """Nothing was kept of it."""

    def give_back(self, attempts: Sequence[Attempt]) -> None:
        raise AssertionError("there is a thread for every attempt")


class _Server:
    """As much of a server as generated code calls."""

    def __init__(self) -> None:
        self.registry = Registry()

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self.registry.add_generic(handlers)

    def add_registered_method_handlers(self, name: str, handlers: Mapping[str, Any]) -> None:
        self.registry.add_registered(name, handlers)


class Serving:
    """Runs a servicer in both ways."""

    def __init__(self) -> None:
        self.clock = grpc_testing.strict_fake_time(1_000_000.0)
        """What a call that is served directly takes for the time."""
        self._executor = Executor(worker="w", slots=1, threads=2, max_response_bytes=1 << 20)
        self._sink = Sink()

    def invoke(
        self,
        servicer: object,
        request: Any = REQUEST,
        *,
        method: str = "Echo",
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Any:
        """Calls it, served directly; grpc_testing's end of the call."""
        server = grpc_testing.server_from_dictionary({PROBE: servicer}, self.clock)
        return server.invoke_unary_unary(PROBE.methods_by_name[method], tuple(metadata), request, TIMEOUT)

    def direct(self, servicer: object) -> Outcome:
        """What a call comes to that is served directly."""
        message, _, code, details = self.invoke(servicer).termination()
        return Outcome(code, "", message.payload) if code is grpc.StatusCode.OK else Outcome(code, details)

    def start(
        self,
        servicer: probe_pb2_grpc.ProbeServiceServicer,
        request: Any = REQUEST,
        *,
        method: str = "Echo",
        timeout: float = TIMEOUT,
    ) -> Attempt:
        """Starts the only attempt at a job: what would be tried again is told at once."""
        server = _Server()
        probe_pb2_grpc.add_ProbeServiceServicer_to_server(servicer, cast("grpc.Server", server))
        served = server.registry.resolve(load_catalogue().methods).methods[f"{PROBE.full_name}/{method}"]
        job = ClaimedJob(
            tenant="acme", job_id=UUID(int=7), lease=3, attempt=1, lane=3, order_key=1, method_id=1, policy_id=1,
            request=request.SerializeToString(), request_id="r-1", actor="ann", traceparent=None, tracestate=None,
            labels={"team": "clocks"}, lost=0,
        )  # fmt: skip
        second = timedelta(seconds=1)
        policy = PolicyRow(1, 1, second, second, 2.0, timedelta(seconds=timeout), (4, 8, 10, 14))
        return self._executor.start(job, served, policy, self._sink)

    def cancel(self, attempt: Attempt) -> None:
        """Somebody cancels the job."""
        self._executor.cancel(attempt)

    async def settlement(self) -> Settlement:
        """What is written of an attempt, once it is over."""
        async with asyncio.timeout(SECONDS):
            return await self._sink.settled.get()

    async def outcome(self) -> Outcome:
        """What the caller of an attempt's job is told."""
        settled = await self.settlement()
        if settled.state == JobState.JOB_STATE_SUCCEEDED:
            return Outcome(grpc.StatusCode.OK, "", EchoResponse.FromString(settled.response or b"").payload)
        status = error_of(settled)
        return Outcome(next(code for code in grpc.StatusCode if code.value[0] == status.code), status.message)

    async def queued(self, servicer: probe_pb2_grpc.ProbeServiceServicer) -> Outcome:
        """What a call comes to behind the queue."""
        self.start(servicer)
        return await self.outcome()

    def close(self) -> None:
        """Lets the threads end, and waits for them."""
        self._executor.close()


def error_of(settled: Settlement) -> Status:
    """The error that a job failed with."""
    assert settled.error is not None
    return Status.FromString(settled.error)


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    """Runs a servicer directly and behind the queue; no thread of either is left."""
    before = set(threading.enumerate())
    serving = Serving()
    yield serving
    serving.close()
    # Not joined: grpcio's threads come and go by themselves, and one that is about to start cannot be.
    await until(lambda: before.issuperset(threading.enumerate()), seconds=SECONDS)
