"""The context that a handler gets: gRPC's own, as far as a row can carry it, and what is known of the job.

Made by `rowcall_worker.running.executor` for each attempt. `AsyncJobContext` stands in for grpc.aio.ServicerContext,
`SyncJobContext` for grpc.ServicerContext; both are a `JobContext`, by which a servicer that is also served directly
can tell where it runs. What differs from a served call is listed in docs/servicers.md.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple, Never, NoReturn, cast

import grpc
import grpc.aio
import psycopg
from google.protobuf.message import Message
from psycopg.rows import TupleRow

from rowcall_worker.serving.attempt import AttemptState
from rowcall_worker.serving.outcome_values import Fail, Retry, Snooze


class Metadatum(NamedTuple):
    """One pair of metadata, as gRPC's own contexts have it."""

    key: str
    value: str | bytes


class JobContext:
    """The context of one attempt at a job.

    `isinstance(context, JobContext)` is true behind the queue and false behind a plain gRPC server.
    """

    def __init__(self, state: AttemptState) -> None:
        self._state = state
        self._sent_initial_metadata = False

    # What is known of the job.

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1. One that is lost with its worker, or handed back, is not counted."""
        return self._state.job.attempt

    @property
    def max_attempts(self) -> int:
        """How often the job may be tried."""
        return self._state.max_attempts

    @property
    def tenant(self) -> str:
        """Whose job it is."""
        return self._state.job.tenant

    @property
    def actor(self) -> str | None:
        """Who triggered it."""
        return self._state.job.actor

    @property
    def request_id(self) -> str | None:
        """The caller's idempotency key."""
        return self._state.job.request_id

    @property
    def operation(self) -> str:
        """The job's name: "tenants/{tenant}/operations/{uuid}". The same for all its attempts: fit as a key outwards."""
        return self._state.call.operation or ""

    @property
    def labels(self) -> Mapping[str, str]:
        """The caller's labels."""
        return self._state.job.labels

    @property
    def worker(self) -> str:
        """The name of the worker process."""
        return self._state.worker

    # What a handler can do for its job.

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        """Says how far the job is, for whoever looks at it. Never waits; the last word wins, once a second.

        Args:
            fraction: 0 to 1; None: not known.
            message: What is being done, in 1,000 characters at most.

        Raises:
            ValueError, TypeError: It says nothing that could be kept.
        """
        self._state.given().progress.report(self._state.job, fraction, message)

    def submit(
        self,
        method: str,
        request: Message,
        *,
        request_id: str | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Submits a job of the same tenant, if and only if this one succeeds: it is written in the same transaction.

        Args:
            method: "package.Service/Method", of this worker's servicers or images.
            request: Of the method's request type; held to its rules.
            request_id: The child's idempotency key. One that names a job with the same request adds none.
            run_at: Not before this time (aware); None: at once.
            priority: rowcall.options.v1.Priority; None: the method's.
            labels: As a call's.

        Returns:
            The name of the child's operation: "tenants/{tenant}/operations/{uuid}". Where its request id names a job
            that is there already, that job keeps its own.

        Raises:
            RowcallError: CHILD_REFUSED: it cannot be submitted; the message says why.
        """
        child = self._state.given().children.draft(
            method, request, request_id=request_id, run_at=run_at, priority=priority, labels=labels
        )
        return self._state.submit(child)

    def snooze(self, delay: timedelta) -> NoReturn:
        """Raises `rowcall_worker.Snooze`: the job runs again after the delay, and this attempt is not used up."""
        raise Snooze(delay)

    def retry(self, delay: timedelta | None = None, message: str = "") -> NoReturn:
        """Raises `rowcall_worker.Retry`: the job is tried again while attempts are left."""
        raise Retry(delay, message)

    def fail(self, code: grpc.StatusCode, message: str, details: Sequence[Message] = ()) -> NoReturn:
        """Raises `rowcall_worker.Fail`: the job is FAILED, whatever the code and however many attempts are left."""
        raise Fail(code, message, details)

    # What gRPC's contexts share.

    def set_code(self, code: grpc.StatusCode) -> None:
        """Ends the call with this code when the handler returns or raises; its response is then discarded."""
        self._state.code = code

    def set_details(self, details: str) -> None:
        """The message that goes with the code."""
        self._state.details = details

    def code(self) -> grpc.StatusCode:
        """What set_code said; None before it, as gRPC has it."""
        return cast("grpc.StatusCode", self._state.code)

    def details(self) -> str:
        """What set_details said; empty before it."""
        return self._state.details

    def peer(self) -> str:
        """Who called: here the job, for no connection of the caller reaches a worker."""
        return f"rowcall:{self.operation}"

    def peer_identities(self) -> Iterable[bytes] | None:
        """None: the caller was authenticated by the gateway; see `tenant` and `actor`."""
        return None

    def peer_identity_key(self) -> str | None:
        """None: the caller was authenticated by the gateway."""
        return None

    def set_compression(self, compression: grpc.Compression) -> None:
        """Changes nothing: a response is a row."""

    def disable_next_message_compression(self) -> None:
        """Changes nothing: a response is a row."""

    def time_remaining(self) -> float:
        """Seconds until this attempt's time is over (the method's timeout, not the caller's deadline)."""
        if self._state.deadline is None:
            # What gRPC answers for a call without a deadline, whatever its types say.
            return cast("float", None)
        return max(self._state.deadline - time.monotonic(), 0.0)

    def cancelled(self) -> bool:
        """Whether the attempt's result will not count: its time or lease is over, or its worker is going away."""
        return self._state.cancelled or self._state.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Whether the call has its outcome."""
        return self._state.done or self._state.abort is not None

    def is_active(self) -> bool:
        """Whether going on is of use."""
        return not (self._state.done or self._state.cancelled or self._state.abort is not None)

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Of trailing metadata only `grpc-status-details-bin` reaches the caller: it is kept with the error."""
        self._state.trailing_metadata = tuple((key, value) for key, value in trailing_metadata)

    def invocation_pairs(self) -> tuple[Metadatum, ...]:
        """The part of the caller's metadata that the row keeps."""
        job = self._state.job
        pairs = [
            Metadatum("rowcall-tenant", job.tenant),
            Metadatum("rowcall-operation", self.operation),
            Metadatum("traceparent", self._state.call.trace.traceparent),
        ]
        if job.actor is not None:
            pairs.append(Metadatum("rowcall-actor", job.actor))
        if job.request_id is not None:
            pairs.append(Metadatum("idempotency-key", job.request_id))
        if self._state.call.trace.tracestate is not None:
            pairs.append(Metadatum("tracestate", self._state.call.trace.tracestate))
        pairs.extend(Metadatum(f"rowcall-label-{key}", value) for key, value in job.labels.items())
        return tuple(pairs)

    def _add(self, callback: Callable[[], object]) -> bool:
        return self._state.add(callback)

    def _abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: Iterable[tuple[str, str | bytes]]
    ) -> NoReturn:
        state = self._state
        if state.abort is not None:
            raise grpc.aio.UsageError("Abort already called!")
        state.abort = grpc.aio.AbortError("Locally aborted.")
        if code in (grpc.StatusCode.OK, 0):
            # As grpc.Server has it: ending a call as aborted and as OK at once is a fault of the handler.
            state.code, state.details = grpc.StatusCode.UNKNOWN, ""
            state.wrong = "abort was called with OK, which is no error's code"
        else:
            state.code = code
            state.details = details or state.details
            state.trailing_metadata = tuple(trailing_metadata) or state.trailing_metadata
        raise state.abort


class AsyncJobContext(JobContext, grpc.aio.ServicerContext[Message, Message]):
    """What a handler written as `async def` gets: grpc.aio.ServicerContext's methods."""

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: grpc.aio.Metadata | Sequence[tuple[str, str | bytes]] = (),
    ) -> Never:
        """Ends the call with a status. Raises AbortError, always."""
        self._abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: grpc.Status) -> Never:
        """Ends the call with a status that may carry details (grpc_status.rpc_status.to_status)."""
        self._abort(status.code, status.details, status.trailing_metadata)

    async def send_initial_metadata(
        self,
        initial_metadata: grpc.aio.Metadata | Sequence[tuple[str, str | bytes]],  # noqa: ARG002  gRPC names it
    ) -> None:
        """Goes nowhere: the caller's headers were the gateway's. A second time is an error, as in gRPC."""
        if self._sent_initial_metadata:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._sent_initial_metadata = True

    def trailing_metadata(self) -> grpc.aio.Metadata:
        """What set_trailing_metadata said: a tuple of pairs, as grpc.aio really has it."""
        return cast("grpc.aio.Metadata", self._state.trailing_metadata)

    def invocation_metadata(self) -> grpc.aio.Metadata | None:
        """The part of the caller's metadata that the row keeps: a tuple of pairs, as grpc.aio really has it."""
        return cast("grpc.aio.Metadata", self.invocation_pairs())

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Empty: the caller was authenticated by the gateway."""
        return {}

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
        """The job's own transaction: what is written through the connection commits with the job's success, or not at all.

        It begins with the first use and is the same each time. Leaving the block commits nothing; an exception that
        leaves the block undoes what was written in the block. See docs/servicers.md.

        Raises:
            RowcallError: SHARD_UNAVAILABLE: there was no connection in time.
        """
        connection = await self._state.own_transaction().connection()
        async with connection.transaction():
            yield connection

    def add_done_callback(self, callback: Callable[[AsyncJobContext], object]) -> None:
        """Calls back with this context when the attempt ends; at once if it has."""
        if not self._add(lambda: callback(self)):
            callback(self)

    async def read(self) -> Message:
        """Refused: job methods do not stream."""
        raise grpc.aio.UsageError("a job's method is unary: its request is the handler's first argument")

    async def write(self, message: Message) -> None:  # noqa: ARG002  gRPC names it
        """Refused: job methods do not stream."""
        raise grpc.aio.UsageError("a job's method is unary: its response is what the handler returns")


class SyncJobContext(JobContext, grpc.ServicerContext):
    """What a handler written as plain `def` gets, in its thread: grpc.ServicerContext's methods."""

    def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> Never:
        """Ends the call with a status. Raises AbortError, always."""
        self._abort(code, details, trailing_metadata)

    def abort_with_status(self, status: grpc.Status) -> Never:
        """Ends the call with a status that may carry details (grpc_status.rpc_status.to_status)."""
        self._abort(status.code, status.details, status.trailing_metadata)

    def send_initial_metadata(self, initial_metadata: Sequence[tuple[str, str | bytes]]) -> None:  # noqa: ARG002  gRPC names it
        """Goes nowhere: the caller's headers were the gateway's. A second time is an error, as in gRPC."""
        if self._sent_initial_metadata:
            raise ValueError("Initial metadata no longer allowed!")
        self._sent_initial_metadata = True

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What set_trailing_metadata said."""
        return self._state.trailing_metadata

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        """The part of the caller's metadata that the row keeps."""
        return self.invocation_pairs()

    def auth_context(self) -> Mapping[str, bytes]:
        """Empty: the caller was authenticated by the gateway."""
        return {}

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """The job's own transaction: what is written through the connection commits with the job's success, or not at all.

        It begins with the first use and is the same each time. Leaving the block commits nothing; an exception that
        leaves the block undoes what was written in the block. See docs/servicers.md.

        Raises:
            RowcallError: SHARD_UNAVAILABLE: there was no connection in time.
        """
        connection = self._state.own_transaction().connection_in_thread()
        with connection.transaction():
            yield connection

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls back when the attempt ends, in the worker's own thread; False if it has ended."""
        return self._add(callback)

    def cancel(self) -> bool:
        """Ends the call as cancelled when the handler returns; its response is then discarded."""
        self._state.code = grpc.StatusCode.CANCELLED
        return True
