"""The error envelope: one google.rpc.Status, the same in a trailer, an operation, a row and an attempt.

Parts raise `RowcallError` with a reason; the edge (the gateway's interceptor, the worker's runner) makes the
envelope of it, because only the edge knows origin, trace and request id. A reason has one code, from the
one table below. Nothing here carries a stack trace, SQL text or a payload.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    DebugInfo,
    ErrorInfo,
    Help,
    LocalizedMessage,
    PreconditionFailure,
    QuotaFailure,
    RequestInfo,
    ResourceInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from rowcall.v1.error_reason_pb2 import ErrorReason

DOMAIN: Final = "rowcall.dev"
"""ErrorInfo.domain of every error of ours."""

PREFIX: Final = "rowcall_"
"""What our keys begin with in the metadata of an ErrorInfo that is a handler's own. In one of ours they have no prefix."""

DETAILS_KEY: Final = "grpc-status-details-bin"
"""The trailer that carries the Status."""

PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
"""The trailer that tells gRPC's own retries how long to wait; negative: not to retry."""

MAX_MESSAGE_BYTES: Final = 1024
"""A message is cut to this many bytes on the wire, counted as gRPC encodes it (a non-ASCII byte is three)."""

MAX_VALUE_BYTES: Final = 256
"""A metadata value is cut to this many bytes: names in it may be the caller's."""

MAX_INFO_BYTES: Final = 2048
"""What a handler's own ErrorInfo may take, ours not counted: it has to reach every client with our keys in it."""

MAX_DETAILS_BYTES: Final = 4096
"""What the Status may take in the trailer. Clients take 8 KiB of trailers in all: grpc-java counts base64, and what is
above is refused by grpcio at random, 8.4 KB once in forty calls, 16 KB always (measured with grpcio 1.85)."""

_ROOM_FOR_NAMES: Final = MAX_VALUE_BYTES + 64
"""What the names of details that do not fit may take, with their key."""

MAX_KEPT_BYTES: Final = 8192
"""What the Status of a job or an attempt may take in the row. A job shows a hundred attempts with theirs, beside a request and
a response of 1 MiB each, and clients take 4 MiB by default."""

MORE_VIOLATIONS: Final = "there are more violations than an error can carry; mend these first"
"""The description of the last violation in a BadRequest that does not have them all."""

CODES: Final[Mapping[ErrorReason.ValueType, grpc.StatusCode]] = MappingProxyType(
    {
        ErrorReason.ERROR_REASON_STILL_RUNNING: grpc.StatusCode.DEADLINE_EXCEEDED,
        ErrorReason.ERROR_REASON_UNKNOWN_METHOD: grpc.StatusCode.UNIMPLEMENTED,
        ErrorReason.ERROR_REASON_UNDECODABLE_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_UNKNOWN_METADATA: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_INVALID_METADATA: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_REQUEST_ID_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REQUIRED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED: grpc.StatusCode.ALREADY_EXISTS,
        ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_RESPONSE_TOO_LARGE: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_RESPONSE_TYPE_MISMATCH: grpc.StatusCode.INTERNAL,
        ErrorReason.ERROR_REASON_COMMIT_UNKNOWN: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_WRONG_SHARD: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_CATALOGUE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_TOO_MANY_WAITERS: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_GATEWAY_DRAINING: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_JOB_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_JOB_CANCELLED: grpc.StatusCode.CANCELLED,
        ErrorReason.ERROR_REASON_HANDLER_EXCEPTION: grpc.StatusCode.UNKNOWN,
        ErrorReason.ERROR_REASON_ATTEMPT_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
        ErrorReason.ERROR_REASON_WORKER_LOST: grpc.StatusCode.ABORTED,
        ErrorReason.ERROR_REASON_INVALID_TENANT: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_INVALID_NAME: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_INVALID_PAGE_TOKEN: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_INVALID_FILTER: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_JOB_NOT_FINISHED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_OPERATION_DELETED: grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
        ErrorReason.ERROR_REASON_SCHEMA_MISMATCH: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_UNSUPPORTED_METADATA: grpc.StatusCode.UNIMPLEMENTED,
        ErrorReason.ERROR_REASON_REQUEST_TYPE_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_CONFLICT: grpc.StatusCode.ABORTED,
        ErrorReason.ERROR_REASON_FAULTS_NOT_ALLOWED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_DEADLINE_TOO_SHORT: grpc.StatusCode.DEADLINE_EXCEEDED,
        ErrorReason.ERROR_REASON_JOB_DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
        ErrorReason.ERROR_REASON_NOT_KNOWN: grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_JOB_NOT_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_JOB_FINISHED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_TRANSACTION_LOST: grpc.StatusCode.ABORTED,
        ErrorReason.ERROR_REASON_TRANSACTION_MISUSED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_CHILD_REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_CREDENTIALS_REQUIRED: grpc.StatusCode.UNAUTHENTICATED,
        ErrorReason.ERROR_REASON_TOKEN_INVALID: grpc.StatusCode.UNAUTHENTICATED,
        ErrorReason.ERROR_REASON_TOKEN_EXPIRED: grpc.StatusCode.UNAUTHENTICATED,
        ErrorReason.ERROR_REASON_TOKEN_REVOKED: grpc.StatusCode.UNAUTHENTICATED,
        ErrorReason.ERROR_REASON_CERTIFICATE_UNKNOWN: grpc.StatusCode.UNAUTHENTICATED,
        ErrorReason.ERROR_REASON_CREDENTIALS_MISMATCH: grpc.StatusCode.UNAUTHENTICATED,
        ErrorReason.ERROR_REASON_IDENTITY_MISMATCH: grpc.StatusCode.PERMISSION_DENIED,
        ErrorReason.ERROR_REASON_KEYS_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_TENANT_REQUIRED: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_MISSING_ROLE: grpc.StatusCode.PERMISSION_DENIED,
        ErrorReason.ERROR_REASON_MISSING_SCOPE: grpc.StatusCode.PERMISSION_DENIED,
        ErrorReason.ERROR_REASON_METHOD_CLOSED: grpc.StatusCode.PERMISSION_DENIED,
        ErrorReason.ERROR_REASON_NOT_ADMITTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_BUDGET_SPENT: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_TENANT_ERASED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_TENANT_NOT_ERASED: grpc.StatusCode.FAILED_PRECONDITION,
    }
)
"""The code of each reason, as the comments of rowcall/v1/error_reason.proto say. HANDLER_ERROR has the handler's own."""

_BY_NUMBER: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}

_INT32_MAX: Final = 2**31 - 1

_HANDLER_ERROR: Final = ErrorReason.Name(ErrorReason.ERROR_REASON_HANDLER_ERROR).removeprefix("ERROR_REASON_")

_SERVED_BY: Final = f"{DOMAIN} "
"""What RequestInfo.serving_data of ours begins with: "rowcall.dev origin=JOB trace_id=4bf9…"."""

_READ_BY_CLIENTS: Final[Mapping[str, type[Message]]] = MappingProxyType(
    {
        kind.DESCRIPTOR.full_name: kind
        for kind in (
            *(ErrorInfo, RetryInfo, RequestInfo, BadRequest, PreconditionFailure),
            *(QuotaFailure, ResourceInfo, DebugInfo, Help, LocalizedMessage),
        )
    }
)
"""Details that google-api-core unpacks of every error, whether anybody asks for them or not."""

_LEFT_OUT_OF_INFO: Final = "ErrorInfo.metadata"


class Origin(enum.StrEnum):
    """Who an error is of: ErrorInfo.metadata["origin"]."""

    GATEWAY = "GATEWAY"
    """The call was refused or could not be carried out; unless an operation is named, nothing was written."""
    WORKER = "WORKER"
    """The worker could not run or settle an attempt."""
    JOB = "JOB"
    """The job itself failed; its row has the same error."""


class RowcallError(Exception):
    """A call or a job cannot go on, for a reason that its caller is told."""

    reason: ErrorReason.ValueType
    """Why, from the one list of reasons."""
    message: str
    """What was wrong, where, and what to do; for the caller's developer."""
    code: grpc.StatusCode
    """The reason's code."""
    metadata: Mapping[str, str]
    """The reason's keys of ErrorInfo.metadata."""
    details: Sequence[Message]
    """Further google.rpc details: BadRequest, QuotaFailure, ResourceInfo, …"""
    retry_after: timedelta | None
    """When to call again; None: nothing is said."""
    no_retry: bool
    """Whether gRPC's own retries must not repeat the call."""

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        details: Sequence[Message] = (),
        retry_after: timedelta | None = None,
        code: grpc.StatusCode | None = None,
        no_retry: bool = False,
    ) -> None:
        """Raises ValueError for a reason without a code of its own, unless the code is given."""
        super().__init__(message)
        known = code if code is not None else CODES.get(reason)
        if known is None or known is grpc.StatusCode.OK:
            raise ValueError(f"{ErrorReason.Name(reason)} has no code of its own: pass code=, and not OK")
        self.reason = reason
        self.message = message
        self.code = known
        self.metadata = dict(metadata or {})
        self.details = tuple(details)
        self.retry_after = retry_after
        self.no_retry = no_retry

    def __str__(self) -> str:
        return f"{reason_name(self.reason)}: {self.message}"


def reason_name(reason: ErrorReason.ValueType) -> str:
    """A reason as ErrorInfo.reason has it: without the enum's prefix."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def envelope(
    error: RowcallError,
    *,
    origin: Origin,
    trace_id: str,
    request_id: str | None = None,
    operation: str | None = None,
    attempt: int | None = None,
) -> Status:
    """The Status of an error, as its caller, its row and its attempt get it.

    Args:
        error: What happened.
        origin: Who it is of.
        trace_id: 32 hex digits; in every error.
        request_id: The caller's idempotency key.
        operation: The job's name, where there is one and the error does not name it itself.
        attempt: Which attempt of the job, from 1.
    """
    metadata = dict(error.metadata)
    if operation is not None:
        metadata.setdefault("operation", operation)
    status = Status(code=error.code.value[0], message=_cut_message(error.message))
    _add(status, _error_info(error.reason, _our_keys(metadata, origin=origin, trace_id=trace_id, attempt=attempt)))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(max(error.retry_after, timedelta(0)))
        _add(status, RetryInfo(retry_delay=delay))
    for detail in error.details:
        _add(status, detail)
    _add(status, _request_info(request_id, origin=origin, trace_id=trace_id))
    return status


def handler_status(
    status: Status, *, operation: str, attempt: int, trace_id: str, request_id: str | None = None, wrong: str = ""
) -> Status:
    """The job's Status when its handler ended the call with a status of its own.

    Code, message and details stay as the handler set them, and there is one ErrorInfo: the handler's, with our keys
    (origin JOB, operation, attempt, trace_id) under `PREFIX` in its metadata, or else one of ours, HANDLER_ERROR. Of
    several the last one is the handler's, as clients read it. One of our domain is of another call that the handler
    passes on: its reason would be taken for this job's, so it becomes the key `passed_on` (`passed_on_operation`). What
    is left out is named under `left_out`. A message beyond the bound is cut. Details of google.rpc that are not what they
    say are left out, for clients that unpack details by themselves would raise of them and lose the code, and a number
    that is no error's code is UNKNOWN, as gRPC clients read it; both are named under `wrong`.

    Args:
        status: As the handler set it; left alone.
        operation: The job's name.
        attempt: Which attempt, from 1.
        trace_id: 32 hex digits.
        request_id: The caller's idempotency key.
        wrong: What else the handler said that makes no sense.
    """
    faults = [wrong] if wrong else []
    code = status.code
    if code == 0 or code not in _BY_NUMBER:
        faults.append(f"the code {code} is no error's")
        code = grpc.StatusCode.UNKNOWN.value[0]
    said = _said(status.details)
    faults += said.faults
    metadata = {"operation": operation, **said.passed_on}
    if said.left_out:
        metadata["left_out"] = _named(said.left_out)
    message = status.message
    if faults:
        metadata["wrong"] = "; ".join(faults)
        message = message or f"What the handler said is wrong: {metadata['wrong']}."
    result = Status(code=code, message=_cut_message(message), details=said.details)
    ours = _our_keys(metadata, origin=Origin.JOB, trace_id=trace_id, attempt=attempt)
    if said.info is None:
        _add(result, _error_info(ErrorReason.ERROR_REASON_HANDLER_ERROR, ours))
    else:
        result.details[said.place].Pack(_stamped(said.info, ours))
    if not said.request_info:
        _add(result, _request_info(request_id, origin=Origin.JOB, trace_id=trace_id))
    return result


@dataclass(slots=True)
class _Said:
    """The details of a handler's status, sorted out."""

    details: list[AnyMessage] = field(default_factory=list)
    """What stays of them."""
    info: ErrorInfo | None = None
    """The handler's own ErrorInfo."""
    place: int = 0
    """Its place in the details."""
    request_info: bool = False
    """Whether there is a RequestInfo of the handler's own."""
    passed_on: dict[str, str] = field(default_factory=dict)
    """Of another call's error that is passed on."""
    left_out: list[AnyMessage] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def _said(details: Iterable[AnyMessage]) -> _Said:
    said = _Said()
    for number, detail in enumerate(details):
        info, request = ErrorInfo(), RequestInfo()
        if unpacked(detail, info):
            if info.domain == DOMAIN:
                said.passed_on["passed_on"] = info.reason
                if "operation" in info.metadata:
                    said.passed_on["passed_on_operation"] = info.metadata["operation"]
                continue
            if said.info is not None:
                said.left_out.append(said.details.pop(said.place))
            said.info, said.place = info, len(said.details)
        elif unpacked(detail, request):
            if is_ours(request):
                continue
            said.request_info = True
        elif not _sound(detail):
            said.faults.append(f"details[{number}] is no {_type_of(detail)}")
            continue
        said.details.append(detail)
    return said


def trailers(status: Status, *, no_retry: bool = False) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that carries a Status beside gRPC's own code and message.

    Details that no client could receive, because gRPC bounds trailers, are left out, the last first, and named under the
    key left_out of the ErrorInfo, which is always there; a BadRequest says so when it left violations out.

    Args:
        status: What `envelope` or `handler_status` made; pass its code and message to gRPC unchanged.
        no_retry: Tells gRPC's own retries not to repeat the call (RowcallError.no_retry).
    """
    result: list[tuple[str, str | bytes]] = [(DETAILS_KEY, fitted(status, MAX_DETAILS_BYTES).SerializeToString())]
    if no_retry:
        result.append((PUSHBACK_KEY, "-1"))
    else:
        pushback = _pushback(status)
        if pushback is not None:
            result.append((PUSHBACK_KEY, str(pushback)))
    return tuple(result)


def fitted(status: Status, most: int) -> Status:
    """The same Status with as many of its details as so many bytes can carry, in their order.

    What is left out is named, by type and size, under the key `left_out` of the ErrorInfo, which is always there.
    """
    if status.ByteSize() <= most:
        return status
    made, left_out = _fit(status, most)
    if left_out and any(_is_ours(detail) for detail in made.details):
        # Once more, with room for the names.
        made, left_out = _fit(status, most - _ROOM_FOR_NAMES)
        _name_left_out(made, left_out)
    return made


def read_envelope(status: Status) -> ErrorInfo | None:
    """What a Status says in our words: reason and domain of its ErrorInfo, and our keys of its metadata, unprefixed.

    None if none of ours is in it. Domain and reason are ours unless they are a handler's own: see `our_reason`.
    """
    info = ErrorInfo()
    for detail in reversed(status.details):
        if unpacked(detail, info) and _prefix(info) is not None:
            if info.domain == DOMAIN:
                return info
            ours = {key.removeprefix(PREFIX): value for key, value in info.metadata.items() if key.startswith(PREFIX)}
            return ErrorInfo(reason=info.reason, domain=info.domain, metadata=ours)
    return None


def our_reason(info: ErrorInfo) -> str:
    """The reason of what `read_envelope` found, from our list: HANDLER_ERROR where a handler gave one of its own.

    For whatever acts on a reason, and for logs and spans: a handler's may be any text.
    """
    return info.reason if info.domain == DOMAIN else _HANDLER_ERROR


def completed(status: Status, *, operation: str, attempt: int, trace_id: str) -> None:
    """Fills in what an error that was written for many jobs does not say of its own one; what it says stays."""
    own = {"operation": operation, "attempt": str(attempt), "trace_id": trace_id}
    for detail in status.details:
        info, request = ErrorInfo(), RequestInfo()
        if unpacked(detail, info):
            prefix = _prefix(info)
            if prefix is None:
                continue
            missing = {prefix + key: value for key, value in own.items() if not info.metadata.get(prefix + key, "")}
            if missing:
                info.metadata.update(missing)
                detail.Pack(info)
        elif unpacked(detail, request) and request.serving_data == _serving_data(Origin.JOB, ""):
            request.serving_data = _serving_data(Origin.JOB, trace_id)
            detail.Pack(request)


def status_of(error: grpc.RpcError) -> Status:
    """The Status that a failed call came back with, of a client of grpc.aio or of plain grpc.

    Without a readable Status in the trailers (a proxy, a deadline of the client's own) it is made of code and message.
    """
    if not isinstance(error, (grpc.aio.AioRpcError, grpc.Call)):
        return Status(code=grpc.StatusCode.UNKNOWN.value[0], message=type(error).__name__)
    code = error.code().value[0]
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = Status.FromString(value)
            except DecodeError:
                continue
            if status.code == code:
                return status
    return Status(code=code, message=error.details() or "")


def grpc_code(status: Status) -> grpc.StatusCode:
    """A Status' code as gRPC's enum; UNKNOWN for a number that is none."""
    return _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)


def unpacked(detail: AnyMessage, message: Message) -> bool:
    """Whether a detail is of a type, and then that message. Details may be a handler's, and need not be what they say."""
    try:
        return detail.Unpack(message)
    except DecodeError:
        return False


def is_ours(info: RequestInfo) -> bool:
    """Whether a RequestInfo is the one that we add where a handler gave none."""
    return info.serving_data.startswith(_SERVED_BY)


def readable(text: object) -> str:
    """A message as a row can keep it, whatever was given: Postgres's text has no NUL, UTF-8 no lone surrogates."""
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return text.replace("\x00", "").encode(errors="replace").decode()


def _our_keys(metadata: Mapping[str, str], *, origin: Origin, trace_id: str, attempt: int | None) -> Mapping[str, str]:
    ours = {key: _cut_value(value) for key, value in metadata.items()}
    ours["origin"] = origin.value
    ours["trace_id"] = trace_id
    if attempt is not None:
        ours["attempt"] = str(attempt)
    return ours


def _error_info(reason: ErrorReason.ValueType, ours: Mapping[str, str]) -> ErrorInfo:
    return ErrorInfo(reason=reason_name(reason), domain=DOMAIN, metadata=ours)


def _stamped(own: ErrorInfo, ours: Mapping[str, str]) -> ErrorInfo:
    """A handler's ErrorInfo with our keys in it, and nobody else's under our prefix; too large a one is cut."""
    result = ErrorInfo(reason=own.reason, domain=own.domain)
    result.metadata.update({key: value for key, value in own.metadata.items() if not key.startswith(PREFIX)})
    if result.ByteSize() > MAX_INFO_BYTES:
        cut = ErrorInfo(reason=_cut_value(own.reason), domain=_cut_value(own.domain))
        for key in sorted(result.metadata):
            cut.metadata[_cut_value(key)] = _cut_value(result.metadata[key])
            if cut.ByteSize() > MAX_INFO_BYTES:
                del cut.metadata[_cut_value(key)]
        left_out = f"{_LEFT_OUT_OF_INFO} ({result.ByteSize() - cut.ByteSize()} bytes)"
        before = ours.get("left_out")
        ours = {**ours, "left_out": _cut_value(left_out if before is None else f"{left_out}, {before}")}
        result = cut
    result.metadata.update({PREFIX + key: value for key, value in ours.items()})
    return result


def _prefix(info: ErrorInfo) -> str | None:
    """What our keys begin with in an ErrorInfo; None if there are none of ours in it."""
    if info.domain == DOMAIN:
        return ""
    return PREFIX if PREFIX + "origin" in info.metadata else None


def _request_info(request_id: str | None, *, origin: Origin, trace_id: str) -> RequestInfo:
    return RequestInfo(
        request_id="" if request_id is None else _cut_value(request_id), serving_data=_serving_data(origin, trace_id)
    )


def _serving_data(origin: Origin, trace_id: str) -> str:
    return f"{_SERVED_BY}origin={origin.value} trace_id={trace_id}"


def _named(details: Sequence[AnyMessage]) -> str:
    """Details that are left out, by type and size."""
    return ", ".join(f"{_type_of(detail)} ({len(detail.value)} bytes)" for detail in details)


def _type_of(detail: AnyMessage) -> str:
    return detail.type_url.rpartition("/")[2]


def _sound(detail: AnyMessage) -> bool:
    """Whether a detail is what it says, as far as it is of a type that something here or in clients unpacks."""
    kind = _READ_BY_CLIENTS.get(_type_of(detail))
    return kind is None or "/" not in detail.type_url or unpacked(detail, kind())


def _add(status: Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _wire_size(text: str) -> int:
    """How many bytes grpc-message takes: percent-encoded UTF-8."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())


def _cut_message(message: str) -> str:
    message = readable(message)
    if _wire_size(message) <= MAX_MESSAGE_BYTES:
        return message
    size = _wire_size("…")
    for index, char in enumerate(message):
        size += _wire_size(char)
        if size > MAX_MESSAGE_BYTES:
            return message[:index] + "…"
    return message


def _cut_value(value: str) -> str:
    data = value.encode(errors="replace")
    if len(data) <= MAX_VALUE_BYTES:
        return data.decode()
    return data[: MAX_VALUE_BYTES - len("…".encode())].decode(errors="ignore") + "…"


def _pushback(status: Status) -> int | None:
    """How many milliseconds gRPC's own retries shall wait.

    Nothing for a job's error: the same call would get the same answer, and a RetryInfo in it is the handler's.
    """
    info = RetryInfo()
    if not any(unpacked(detail, info) for detail in status.details):
        return None
    ours = read_envelope(status)
    if ours is None or ours.metadata["origin"] == Origin.JOB:
        return None
    # Rounded up: earlier than asked for would be refused again.
    return min(-(-info.retry_delay.ToMicroseconds() // 1000), _INT32_MAX)


def _fit(status: Status, most: int) -> tuple[Status, list[AnyMessage]]:
    """What fits, and what does not."""
    ours = [index for index, detail in enumerate(status.details) if _is_ours(detail)]
    made = Status(code=status.code, message=status.message)
    kept: dict[int, AnyMessage] = {}
    room = most - made.ByteSize()
    # Ours first, then the rest in order, each if it fits; a field's tag and length take four bytes at most.
    for index in [*ours, *(index for index in range(len(status.details)) if index not in ours)]:
        detail = status.details[index]
        if detail.Is(BadRequest.DESCRIPTOR):
            detail = _fitted_violations(detail, room - 4)
        size = detail.ByteSize() + 4
        if size <= room:
            kept[index] = detail
            room -= size
    made.details.extend(kept[index] for index in sorted(kept))
    return made, [detail for index, detail in enumerate(status.details) if index not in kept]


def _name_left_out(status: Status, left_out: Sequence[AnyMessage]) -> None:
    info = ErrorInfo()
    for detail in status.details:
        if unpacked(detail, info):
            key = ("" if info.domain == DOMAIN else PREFIX) + "left_out"
            before = [info.metadata[key]] if key in info.metadata else []
            info.metadata[key] = _cut_value(", ".join([*before, _named(left_out)]))
            detail.Pack(info)


def _is_ours(detail: AnyMessage) -> bool:
    """Whether a detail is our ErrorInfo, or has our keys, or is our RequestInfo."""
    info, request = ErrorInfo(), RequestInfo()
    if unpacked(detail, info):
        return _prefix(info) is not None
    return unpacked(detail, request) and request.serving_data.startswith(_SERVED_BY)


def _fitted_violations(detail: AnyMessage, room: int) -> AnyMessage:
    request = BadRequest()
    if detail.ByteSize() <= room or not unpacked(detail, request):
        return detail
    fitted = BadRequest()
    last = BadRequest.FieldViolation(description=MORE_VIOLATIONS)
    # The Any's type and the framing; three bytes a violation for its tag and length.
    used = 64 + 3 + last.ByteSize()
    for violation in request.field_violations:
        used += 3 + violation.ByteSize()
        if used > room:
            break
        fitted.field_violations.append(violation)
    fitted.field_violations.append(last)
    packed = AnyMessage()
    packed.Pack(fitted)
    return packed
