"""What every call goes through, put around each handler once, when the server is assembled.

It refuses who would be answered too late, resolves the tenant, refuses who may not call, and only then has the request come in; refuses what is too large, makes an
envelope of every error and writes the request line. Health checks pass by it; reflection, a stream, is only asked who calls.

To gRPC every method is one whose request is a stream, of one message: where it is not, gRPC asks for the message before it asks us, and
takes in and holds as much as a message may have, on each stream of a connection, for whoever is nobody. What callers see is the same.

Handlers raise; what they raise becomes the abort that gRPC wants, once the span, the line and the figures have it. A cancellation is let
through as it is: it is gRPC that cancels a call whose caller is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final, Protocol, TypeAlias, cast

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message

from rowcall import context as calls_context
from rowcall.errors import Origin, RowcallError, envelope, grpc_code, our_reason, read_envelope, reason_name, trailers
from rowcall.telemetry import metrics
from rowcall.tracing import TraceContext
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge import incoming
from rowcall_gateway.edge.access import Resolve, Rights
from rowcall_gateway.edge.failures import JobFailure, internal, too_large, too_late
from rowcall_gateway.edge.gate import Gate
from rowcall_gateway.edge.handlers import ByPath, Handler, decoding, message_of, unary, undecodable
from rowcall_gateway.edge.identity import Peer, Principal, ServicerContext, TenantScope, tenant_required
from rowcall_gateway.edge.in_time import InTime
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.edge.metadata import IDEMPOTENCY_KEY, OPERATION, CallMetadata, read_metadata
from rowcall_gateway.edge.refused import RefusedCalls
from rowcall_gateway.edge.request_line import write_request_line
from rowcall_gateway.edge.telemetry import CallSpan, Traces

PASSED_BY: Final = ("/grpc.health.", "/grpc.reflection.")
"""Services whose calls are no tenant's, are answered even while the gateway drains, and are not logged."""

LOOK_AGAIN_AFTER: Final = 1.0
"""Seconds from which on a call has waited, so that its credential is looked at again before it is answered. What is done in
less was allowed when it was done."""

_SHOWN: Final = 255
"""Of the path of a method that there is not: so many characters."""

_CALL_AGAIN: Final = tuple(1 + 2 * n / 15 for n in range(16))
"""Seconds after which those are to call again who would have been answered too late: spread, so that they do not come back together."""

_FAULTS: Final = frozenset({ErrorReason.ERROR_REASON_INTERNAL, ErrorReason.ERROR_REASON_SCHEMA_MISMATCH})

_MEANT: Final = frozenset({ErrorReason.ERROR_REASON_GATEWAY_DRAINING, ErrorReason.ERROR_REASON_WRONG_SHARD})
"""Refusals with the code of a fault that are none: a gateway is being stopped, a tenant is being moved."""

_log = structlog.get_logger(__name__)

Behaviour: TypeAlias = Callable[[Any, ServicerContext], Awaitable[Any]]
StreamBehaviour: TypeAlias = Callable[[AsyncIterator[Any], ServicerContext], AsyncIterator[Any]]
Trailers: TypeAlias = tuple[tuple[str, str | bytes], ...]


class Note(Protocol):
    """Notes a failure; see rowcall.incidents.recorder."""

    def __call__(self, error: BaseException, *, method: str, code: int, trace_id: str) -> None:
        """See Incidents.note."""


@dataclass(frozen=True, slots=True)
class MethodRules:
    """What the interceptor must know of a method."""

    limit_bytes: int
    """How large a request may be."""
    writes: bool
    """Whether a call submits something, so that gRPC must not repeat it unless it has a key."""
    request_type: str
    """Full name of the request's message type; empty if nobody serves the method."""
    of_tenant: bool = True
    """Whether a call must be of a tenant before it is looked at. Not where the request names it, or nothing of it is a
    tenant's."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """How a call ends that is not answered."""

    code: grpc.StatusCode
    message: str
    trailers: Trailers
    reason: str
    """ErrorInfo.reason."""
    cause: str | None = None
    """The type of what lies behind it, such as the database's error."""
    origin: Origin = Origin.GATEWAY
    """Whose it is."""

    async def abort(self, context: ServicerContext) -> None:
        """Ends the call with it, by the exception that gRPC wants."""
        await context.abort(self.code, self.message, self.trailers)


class CallInterceptor:
    """Stands between gRPC and the handlers.

    It is no grpc.aio.ServerInterceptor: those are asked at each call, which then makes its handler anew.
    """

    def __init__(
        self,
        *,
        scope: TenantScope,
        rights: Rights,
        gate: Gate,
        rules: Callable[[str], MethodRules],
        traces: Traces | None = None,
        note: Note | None = None,
        refused: RefusedCalls | None = None,
        in_time: InTime | None = None,
    ) -> None:
        """
        Args:
            scope: Says whose a call is.
            rights: Says who may call what.
            gate: Says whether calls are taken.
            rules: What is to be known of a method, by its path.
            traces: Begins the spans of calls. None: there are none.
            note: Is told of each failure that is a fault of ours; waits for nothing and raises nothing. None: nobody is.
            refused: Counts calls that are refused for who makes them. None: nobody does.
            in_time: Says whether a call that submits would be answered in time. None: each is tried.
        """
        self._scope = scope
        self._rights = rights
        self._gate = gate
        self._rules = rules
        self._traces = traces
        self._note = note
        self._refused_calls = refused
        self._in_time = in_time
        # Made beforehand: refusing must cost little where there are too many calls. Without a key gRPC must not repeat them.
        self._late = {repeatable: cycle(_late(repeatable=repeatable)) for repeatable in (True, False)}

    def guard(self, handlers: Mapping[str, Handler]) -> ByPath:
        """The same handlers, by their paths, each with everything that a call needs; and an answer for every other path."""
        return ByPath(self.guarded(handlers), self._unknown)

    def guarded(self, handlers: Mapping[str, Handler]) -> Mapping[str, Handler]:
        """The same handlers, by their paths, each with everything that a call needs, as the rules are now."""
        return {
            path: self._passing(path, handler) if path.startswith(PASSED_BY) else self._serving(path, handler)
            for path, handler in handlers.items()
        }

    def _passing(self, path: str, handler: Handler) -> Handler:
        """The handler of a service of PASSED_BY: health's as it is, which everybody may ask; reflection's, asked who calls."""
        if handler.stream_stream is None:
            return decoding(path, handler)
        resolve, admit = self._rights.identifying(path, self._scope.resolve), self._rights.admitting(path)
        behaviour = cast("StreamBehaviour", handler.stream_stream)

        async def serve(requests: AsyncIterator[Any], context: ServicerContext) -> AsyncIterator[Any]:
            started = time.perf_counter()
            items = context.invocation_metadata() or ()
            trace = TraceContext.from_metadata(items)
            refusal: _Refusal | None = None
            try:
                _, principal = await _identified(items, resolve, context)
                admit(principal)
            except RowcallError as error:
                refusal = _refusal(error, None, trace)
                self._count(path, refusal)
            except Exception as error:  # noqa: BLE001 - as for every call
                refusal = _refusal(internal(), None, trace)
                _log.error("a call failed", method=path[1:], trace_id=trace.trace_id, exc_info=error)
            if refusal is not None:
                _report(path, None, trace, refusal, started, told_as=path[1:])
                await refusal.abort(context)
            async for response in behaviour(requests, context):
                yield response

        # As `unary`.
        return grpc.stream_stream_rpc_method_handler(
            cast("Any", serve), handler.request_deserializer, handler.response_serializer
        )

    def _unknown(self, path: str) -> Handler | None:
        if path.startswith(PASSED_BY):
            return None

        if len(path) > _SHOWN:
            # It is told in the line and in the answer.
            path = f"{path[:_SHOWN]}…"

        async def serve(requests: object, context: ServicerContext) -> bytes:
            behaviour = cast("Behaviour", self._serving(path, None).stream_unary)
            return cast("bytes", await behaviour(requests, context))

        return unary(serve)

    def _serving(self, path: str, handler: Handler | None) -> Handler:
        return unary(self._guarded(path, handler))

    def _guarded(self, path: str, handler: Handler | None) -> Behaviour:
        """The method's behaviour, with everything that every call needs: to the bytes of its response."""
        rules = self._rules(path)
        resolve, admit = self._rights.identifying(path, self._scope.resolve), self._rights.admitting(path)
        gate, traces = self._gate, self._traces
        limit_bytes, reads, of_tenant = rules.limit_bytes, not rules.writes, rules.of_tenant
        answer = _answering(path, handler, rules)
        told_as = metrics.UNKNOWN_METHOD if handler is None else path[1:]

        async def behave(_: object, context: ServicerContext) -> bytes:
            started = time.perf_counter()
            items = context.invocation_metadata() or ()
            span = None if traces is None else traces.begin(items)
            trace = TraceContext.from_metadata(items) if span is None else span.trace
            call: IncomingCall | None = None
            ended: bytes | _Refusal | None = None
            try:
                metadata, principal = await _identified(items, resolve, context)
                key = metadata.idempotency_key
                call = IncomingCall(context, metadata, principal, trace, reads or key is not None, key, span=span)
                admit(principal)
                if of_tenant and not principal.tenant:
                    raise tenant_required()  # noqa: TRY301 - as what resolve raises
                request, started = await _request(context, principal, started)
                incoming.bind(call)
                with calls_context.bind(calls_context.CallContext(principal.tenant, principal.actor, key, trace)), gate:
                    _check_size(request, limit_bytes)
                    try:
                        ended = await answer(request, context)
                    except (JobFailure, RowcallError):
                        _look_again(principal, started)
                        raise
                    _look_again(principal, started)
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                # Raised by ourselves, it would leave the caller without any answer.
                ended = _refusal(internal(), call, trace)
                self._failed("a call was cancelled from within", error, path, ended, trace=trace)
            except JobFailure as failure:
                ended = _job_failure(failure)
            except RowcallError as error:
                ended = _refusal(error, call, trace)
                self._refused(error, path, ended, trace)
            except Exception as error:  # noqa: BLE001 - the last line of defence: the caller gets an envelope
                ended = _refusal(internal(), call, trace)
                self._failed("a call failed", error, path, ended, trace=trace)
            finally:
                _report(path, call, trace, ended, started, told_as=told_as, span=span)
            if isinstance(ended, _Refusal):
                await ended.abort(context)
            return cast("bytes", ended)

        return behave if self._in_time is None or not rules.writes else self._timely(behave, self._in_time)

    def _timely(self, behave: Behaviour, in_time: InTime) -> Behaviour:
        """The behaviour of a method that submits, with calls refused that would be answered too late, before anything is read of them."""
        late = self._late

        async def timely(requests: object, context: ServicerContext) -> bytes:
            if in_time.refuses(context.time_remaining()):
                items = context.invocation_metadata() or ()
                await next(late[any(name == IDEMPOTENCY_KEY for name, _ in items)]).abort(context)
            with in_time.take():
                return cast("bytes", await behave(requests, context))

        return timely

    def _refused(self, error: RowcallError, path: str, ended: _Refusal, trace: TraceContext) -> None:
        """Logs what is a bug, notes it with all else that nobody meant, and counts who was refused for who it is."""
        self._count(path, ended)
        if error.reason in _FAULTS:
            self._failed("a call failed", error, path, ended, trace=trace)
        elif error.reason not in _MEANT:
            self._incident(error, path, ended, trace)

    def _failed(self, what: str, error: BaseException, path: str, ended: _Refusal, *, trace: TraceContext) -> None:
        """Logs a fault of ours, and notes it."""
        _log.error(what, method=path[1:], trace_id=trace.trace_id, exc_info=error)
        self._incident(error, path, ended, trace)

    def _count(self, path: str, ended: _Refusal) -> None:
        if self._refused_calls is not None:
            self._refused_calls.count(ended.code, ended.reason, path[1:])

    def _incident(self, error: BaseException, path: str, ended: _Refusal, trace: TraceContext) -> None:
        if self._note is not None:
            self._note(error, method=path[1:], code=ended.code.value[0], trace_id=trace.trace_id)


async def _identified(
    items: Iterable[tuple[str, str | bytes]], resolve: Resolve, context: ServicerContext
) -> tuple[CallMetadata, Principal]:
    """What a call's metadata says, and whose it is.

    Raises:
        RowcallError: What `resolve` raises; UNKNOWN_METADATA or INVALID_METADATA only to those who are somebody.
    """
    peer = Peer(items, context)
    try:
        metadata = read_metadata(items)
    except RowcallError:
        await resolve(CallMetadata(), peer)
        raise
    return metadata, await resolve(metadata, peer)


async def _request(context: ServicerContext, principal: Principal, asked: float) -> tuple[bytes, float]:
    """A call's request, once it has come, and the time then; `asked`: when its credential was looked at."""
    request = await message_of(context, known=principal.believed or principal.credential is not None)
    # It may have ended while the request was on its way.
    _look_again(principal, asked)
    return request, time.perf_counter()


def _look_again(principal: Principal, started: float) -> None:
    """Refuses a call whose credential ended while it waited, whatever it would have been told."""
    if principal.proof is not None and time.perf_counter() - started >= LOOK_AGAIN_AFTER:
        principal.proof.check()


def _check_size(request: bytes, limit_bytes: int) -> None:
    if len(request) > limit_bytes:
        raise too_large(len(request), limit_bytes)


def _answering(
    path: str, handler: Handler | None, rules: MethodRules
) -> Callable[[bytes, ServicerContext], Awaitable[bytes]]:
    """What the method itself does, from bytes to bytes."""
    if handler is None or handler.unary_unary is None:

        async def unknown(_request: bytes, _context: ServicerContext) -> bytes:
            raise RowcallError(
                ErrorReason.ERROR_REASON_UNKNOWN_METHOD,
                f"No image of this gateway has the method {path[1:]!r}, or it is not a job type.",
                metadata={"method": path[1:]},
            )

        return unknown
    behaviour = cast("Behaviour", handler.unary_unary)
    deserialize, serialize = handler.request_deserializer, handler.response_serializer
    if deserialize is None and serialize is None:
        return behaviour

    async def answer(request: bytes, context: ServicerContext) -> bytes:
        message: bytes | Message = request
        if deserialize is not None:
            try:
                message = deserialize(request)
            except DecodeError as error:
                raise undecodable(path, rules.request_type) from error
        response = await behaviour(message, context)
        return cast("bytes", response if serialize is None else serialize(response))

    return answer


def _is_cancelled() -> bool:
    """Whether it is gRPC that cancelled the call that runs, because its caller is gone."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _refusal(error: RowcallError, call: IncomingCall | None, trace: TraceContext) -> _Refusal:
    status = envelope(
        error,
        origin=Origin.GATEWAY,
        trace_id=trace.trace_id,
        request_id=None if call is None else call.request_id,
        operation=None if call is None else call.operation,
    )
    no_retry = error.no_retry or (call is not None and not call.repeatable)
    named = error.metadata.get("operation", None if call is None else call.operation)
    return _Refusal(
        code=error.code,
        message=status.message,
        trailers=trailers(status, no_retry=no_retry) + _operation_trailer(named),
        reason=reason_name(error.reason),
        cause=_root(error),
    )


def _late(*, repeatable: bool) -> Iterable[_Refusal]:
    """What calls are told that would have been answered too late, none of which anything is known of."""
    for seconds in _CALL_AGAIN:
        error = too_late(seconds, repeatable=repeatable)
        status = envelope(error, origin=Origin.GATEWAY, trace_id="")
        found = trailers(status, no_retry=error.no_retry)
        yield _Refusal(error.code, status.message, found, reason_name(error.reason))


def _root(error: BaseException) -> str | None:
    """The type of the error that began it; None if that is this one."""
    link = error
    while link.__cause__ is not None:
        link = link.__cause__
    return None if link is error else type(link).__name__


def _job_failure(failure: JobFailure) -> _Refusal:
    info = read_envelope(failure.status)
    return _Refusal(
        code=grpc_code(failure.status),
        message=failure.status.message,
        # The job is finished: the same call again would only get the same answer.
        trailers=trailers(failure.status, no_retry=True)
        + _operation_trailer(None if info is None else info.metadata.get("operation")),
        reason="" if info is None else our_reason(info),
        origin=Origin.JOB,
    )


def _operation_trailer(name: str | None) -> Trailers:
    return () if name is None else ((OPERATION, name),)


def _report(
    path: str,
    call: IncomingCall | None,
    trace: TraceContext,
    ended: bytes | _Refusal | None,
    started: float,
    *,
    told_as: str,
    span: CallSpan | None = None,
) -> None:
    """Ends the span, takes the call's measure under a method's name, and writes the request line."""
    seconds = time.perf_counter() - started
    if ended is None:
        code, reason, cause = grpc.StatusCode.CANCELLED, None, None
    elif isinstance(ended, _Refusal):
        code, reason, cause = ended.code, ended.reason, ended.cause
    else:
        code, reason, cause = grpc.StatusCode.OK, None, None
    if span is not None:
        span.end(
            told_as,
            code,
            reason,
            tenant=None if call is None else call.tenant,
            actor=None if call is None else call.principal.actor,
            request_id=None if call is None else call.request_id,
            operation=None if call is None else call.operation,
        )
    metrics.CALL_DURATION.record(seconds, metrics.GRPC, told_as, code.name)
    if isinstance(ended, _Refusal):
        metrics.CALL_ERRORS.add(1, told_as, code.name, ended.reason, ended.origin.value)
    write_request_line(
        method=path[1:],
        code=code.name,
        reason=reason,
        exception=cause,
        duration_ms=round(seconds * 1000, 3),
        trace_id=trace.trace_id,
        tenant=None if call is None else call.tenant,
        actor=None if call is None else call.principal.actor,
        credential=None if call is None else call.principal.credential,
        request_id=None if call is None else call.request_id,
        job=None if call is None else call.operation,
    )
