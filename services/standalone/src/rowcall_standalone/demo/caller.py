"""The demo's client: plain gRPC calls with message types from the image, as a caller in any language makes them.

It knows no generated code of the documents example. Called by `steps`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from rowcall.catalogue.model import JobMethod
from rowcall.errors import grpc_code, our_reason, read_envelope, status_of
from rowcall.v1 import action_service_pb2, action_service_pb2_grpc, job_pb2, job_service_pb2, job_service_pb2_grpc

OPERATION_KEY = "rowcall-operation"

_WAIT_SECONDS = 20


class CallFailed(Exception):
    """A call was answered with an error."""

    def __init__(self, reason: str, message: str, code: grpc.StatusCode, operation: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        """Our reason, or the code's name where the error is not one of ours."""
        self.code = code
        self.operation = operation
        """The job's name, if there is one."""


class Ingested(Protocol):
    """documents.v1.IngestDocumentResponse"""

    document_id: str
    digest: str
    chunks: int
    changed: bool


class Source(Protocol):
    """documents.v1.Source"""

    path: str
    snippet: str
    score: float
    first_line: int
    last_line: int


class Answered(Protocol):
    """documents.v1.AskDocumentsResponse"""

    answer: str
    sources: list[Source]


class Probed(Protocol):
    """rowcall.probe.v1.AwaitResponse and RunResponse"""

    payload: bytes
    worker: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call was answered with."""

    operation: str
    """The name of the job and its operation."""
    response: Message | None
    """The response; None if the operation is not done yet."""
    seconds: float
    """How long the call took."""


class Caller:
    """Makes calls to one gateway for one tenant."""

    def __init__(self, channel: grpc.aio.Channel, methods: Mapping[str, JobMethod], tenant: str) -> None:
        self._channel = channel
        self._methods = methods
        self._tenant = tenant
        self._operations = operations_pb2_grpc.OperationsStub(channel)
        self._actions = action_service_pb2_grpc.ActionServiceStub(channel)
        self._jobs = job_service_pb2_grpc.JobServiceStub(channel)
        self.calls = 0
        """How many calls of job methods were made."""
        self.answered = 0
        """How many of them were answered with their response."""
        self.operations: set[str] = set()
        """The jobs they were: a row each."""

    def request(self, method: str, **fields: object) -> Message:
        """A request of a method, of the type that the image gives it."""
        return self._methods[method].request_class(**fields)

    async def call(
        self, method: str, request: Message, *, key: str, deadline: float, wait: float | None = None
    ) -> Reply:
        """Call a method with an idempotency key.

        Args:
            method: package.Service/Method.
            request: From `request`.
            key: The idempotency key.
            deadline: In seconds from now.
            wait: For an operation: how long to wait for its end before it is returned, in seconds; None: the method's.

        Raises CallFailed.
        """
        job = self._methods[method]
        call = self._channel.unary_unary(
            job.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=(
                operations_pb2.Operation if job.returns_operation else job.response_class
            ).FromString,
        )
        metadata = [*self._identity, ("idempotency-key", key)]
        if wait is not None:
            metadata.append(("prefer", f"wait={wait:g}"))
        self.calls += 1
        started = time.perf_counter()
        try:
            running = call(request, timeout=deadline, metadata=metadata)
            answer = await running
            seconds = time.perf_counter() - started
            trailers = await running.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            failed = _failed(error)
            self.operations |= {failed.operation} - {""}
            raise failed from error
        if isinstance(answer, operations_pb2.Operation):
            reply = Reply(answer.name, self._result(job, answer) if answer.done else None, seconds)
        else:
            name = next((str(value) for key, value in trailers or () if key == OPERATION_KEY), "")
            reply = Reply(name, answer, seconds)
        self.operations.add(reply.operation)
        self.answered += reply.response is not None
        return reply

    async def wait(self, method: str, operation: str) -> tuple[Message | None, job_pb2.JobMetadata]:
        """Ask google.longrunning once to wait for an operation's end: the response, if it is done, and where it stands.

        Raises CallFailed.
        """
        request = operations_pb2.WaitOperationRequest(name=operation, timeout=Duration(seconds=_WAIT_SECONDS))
        try:
            answer = await self._operations.WaitOperation(request, timeout=_WAIT_SECONDS + 10, metadata=self._identity)
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error
        return self._seen(method, answer)

    async def look(self, method: str, operation: str) -> tuple[Message | None, job_pb2.JobMetadata]:
        """Ask google.longrunning where an operation stands, without waiting.

        Raises CallFailed.
        """
        request = operations_pb2.GetOperationRequest(name=operation)
        try:
            answer = await self._operations.GetOperation(request, timeout=10, metadata=self._identity)
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error
        return self._seen(method, answer)

    async def finish(self, method: str, operation: str) -> Message:
        """Wait for an operation however long it takes; returns its response.

        Raises CallFailed.
        """
        while True:
            response, _ = await self.wait(method, operation)
            if response is not None:
                return response

    async def job(self, name: str) -> job_pb2.Job:
        """A job as JobService shows it, with its attempts.

        Raises CallFailed.
        """
        try:
            answer = await self._jobs.GetJob(
                job_service_pb2.GetJobRequest(name=name), timeout=10, metadata=self._identity
            )
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error
        return answer.job

    async def spend(self) -> action_service_pb2.GetSpendResponse:
        """What the tenant's calls of models cost, by model, as ActionService tells.

        Raises CallFailed.
        """
        request = action_service_pb2.GetSpendRequest(group_by=[action_service_pb2.SPEND_DIMENSION_MODEL])
        try:
            answer: action_service_pb2.GetSpendResponse = await self._actions.GetSpend(
                request, timeout=10, metadata=self._identity
            )
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error
        return answer

    @property
    def _identity(self) -> tuple[tuple[str, str], ...]:
        return (("rowcall-tenant", self._tenant), ("rowcall-actor", "rowcall-demo"))

    def _seen(self, method: str, operation: operations_pb2.Operation) -> tuple[Message | None, job_pb2.JobMetadata]:
        metadata = job_pb2.JobMetadata()
        operation.metadata.Unpack(metadata)
        return (self._result(self._methods[method], operation) if operation.done else None), metadata

    def _result(self, job: JobMethod, operation: operations_pb2.Operation) -> Message:
        if operation.HasField("error"):
            info = read_envelope(operation.error)
            code = grpc_code(operation.error)
            raise CallFailed(our_reason(info) if info else code.name, operation.error.message, code, operation.name)
        response = job.response_class()
        if not operation.response.Unpack(response):
            raise CallFailed(
                "RESPONSE_TYPE_MISMATCH", operation.response.type_url, grpc.StatusCode.INTERNAL, operation.name
            )
        return response


def as_ingested(message: Message) -> Ingested:
    """A dynamic message by its fields' names."""
    return cast("Ingested", message)


def as_answered(message: Message) -> Answered:
    """A dynamic message by its fields' names."""
    return cast("Answered", message)


def as_probed(message: Message) -> Probed:
    """A dynamic message by its fields' names."""
    return cast("Probed", message)


def _failed(error: grpc.aio.AioRpcError) -> CallFailed:
    status = status_of(error)
    info = read_envelope(status)
    operation = info.metadata.get("operation", "") if info is not None else ""
    return CallFailed(our_reason(info) if info else error.code().name, status.message, error.code(), operation)
