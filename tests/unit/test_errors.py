"""The envelope: what is in it, that it fits, and how it is read back."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TypeVar

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.rpc.error_details_pb2 import BadRequest, DebugInfo, ErrorInfo, QuotaFailure, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import example, given
from hypothesis import strategies as st

from rowcall import errors
from rowcall.errors import Origin, RowcallError
from rowcall.v1.error_reason_pb2 import ErrorReason

_MessageT = TypeVar("_MessageT", bound=Message)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OPERATION = "tenants/acme/operations/0190b5c6-0000-7000-8000-000000000000"


def not_found(message: str = "no such job", **metadata: str) -> RowcallError:
    return RowcallError(ErrorReason.ERROR_REASON_JOB_NOT_FOUND, message, metadata=metadata)


def info_of(status: Status) -> ErrorInfo:
    info = errors.read_envelope(status)
    assert info is not None
    return info


def carried(status: Status) -> Status:
    """What the trailers carry of a status."""
    (data,) = (value for key, value in errors.trailers(status) if key == errors.DETAILS_KEY)
    assert isinstance(data, bytes)
    assert len(data) <= errors.MAX_DETAILS_BYTES
    return Status.FromString(data)


def any_of(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def test_error_says_its_reason() -> None:
    error = not_found("no such job; ask for one that exists", operation=OPERATION)
    assert str(error) == "JOB_NOT_FOUND: no such job; ask for one that exists"
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert error.metadata == {"operation": OPERATION}


def test_code_can_be_another_but_never_ok() -> None:
    reason = ErrorReason.ERROR_REASON_HANDLER_ERROR
    assert RowcallError(reason, "full", code=grpc.StatusCode.OUT_OF_RANGE).code is grpc.StatusCode.OUT_OF_RANGE
    with pytest.raises(ValueError, match="HANDLER_ERROR has no code of its own"):
        RowcallError(reason, "full")
    with pytest.raises(ValueError, match="not OK"):
        RowcallError(ErrorReason.ERROR_REASON_INTERNAL, "x", code=grpc.StatusCode.OK)


def test_envelope_of_a_refusal() -> None:
    status = errors.envelope(not_found(name="x"), origin=Origin.GATEWAY, trace_id=TRACE)
    assert (status.code, status.message) == (5, "no such job")
    assert [detail.type_url.rpartition("/")[2] for detail in status.details] == [
        "google.rpc.ErrorInfo",
        "google.rpc.RequestInfo",
    ]
    info = info_of(status)
    assert (info.reason, info.domain) == ("JOB_NOT_FOUND", "rowcall.dev")
    assert dict(info.metadata) == {"origin": "GATEWAY", "trace_id": TRACE, "name": "x"}


def test_envelope_of_a_job() -> None:
    error = RowcallError(
        ErrorReason.ERROR_REASON_TOO_MANY_WAITERS,
        "full",
        details=[QuotaFailure(violations=[QuotaFailure.Violation(subject="waiters")])],
        retry_after=timedelta(seconds=1.5),
    )
    status = errors.envelope(error, origin=Origin.JOB, trace_id=TRACE, request_id="r-1", operation=OPERATION, attempt=3)
    assert dict(info_of(status).metadata) == {
        "origin": "JOB",
        "trace_id": TRACE,
        "operation": OPERATION,
        "attempt": "3",
    }
    retry, quota, request = RetryInfo(), QuotaFailure(), RequestInfo()
    assert status.details[1].Unpack(retry)
    assert status.details[2].Unpack(quota)
    assert status.details[3].Unpack(request)
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=1.5)
    assert quota.violations[0].subject == "waiters"
    assert request.request_id == "r-1"
    assert request.serving_data == f"rowcall.dev origin=JOB trace_id={TRACE}"


def test_envelope_keeps_what_the_error_names_itself() -> None:
    error = not_found(operation="the one asked for")
    status = errors.envelope(error, origin=Origin.GATEWAY, trace_id=TRACE, operation=OPERATION)
    assert info_of(status).metadata["operation"] == "the one asked for"


def test_origin_and_trace_are_the_edges_own() -> None:
    status = errors.envelope(not_found(origin="JOB", trace_id="forged"), origin=Origin.GATEWAY, trace_id=TRACE)
    assert dict(info_of(status).metadata) == {"origin": "GATEWAY", "trace_id": TRACE}


def test_cause_is_not_told() -> None:
    error = RowcallError(ErrorReason.ERROR_REASON_INTERNAL, "a fault of ours")
    error.__cause__ = LookupError("select secret from rowcall.job_live")
    with pytest.raises(RowcallError) as caught:
        raise error
    data = errors.envelope(caught.value, origin=Origin.GATEWAY, trace_id=TRACE).SerializeToString()
    assert b"secret" not in data
    assert b"LookupError" not in data
    assert b"test_errors" not in data


@pytest.mark.parametrize(
    ("delay", "pushback"),
    [
        (timedelta(0), "0"),
        (timedelta(seconds=-3), "0"),
        (timedelta(milliseconds=250), "250"),
        (timedelta(microseconds=1), "1"),
        (timedelta(seconds=2, microseconds=1), "2001"),
        (timedelta(days=100), "2147483647"),
    ],
)
def test_pushback(delay: timedelta, pushback: str) -> None:
    error = RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "down", retry_after=delay)
    status = errors.envelope(error, origin=Origin.GATEWAY, trace_id=TRACE)
    assert dict(errors.trailers(status))[errors.PUSHBACK_KEY] == pushback


def test_pushback_only_when_something_is_said() -> None:
    status = errors.envelope(not_found(), origin=Origin.GATEWAY, trace_id=TRACE)
    assert [key for key, _ in errors.trailers(status)] == [errors.DETAILS_KEY]
    assert dict(errors.trailers(status, no_retry=True))[errors.PUSHBACK_KEY] == "-1"


def test_jobs_error_pushes_nothing_back() -> None:
    """The handler's RetryInfo is for the caller; gRPC's own retries would only get the same answer again."""
    packed = AnyMessage()
    packed.Pack(RetryInfo())
    status = errors.handler_status(Status(code=14, details=[packed]), operation=OPERATION, attempt=1, trace_id=TRACE)
    assert errors.PUSHBACK_KEY not in dict(errors.trailers(status))


def wire_size(text: str) -> int:
    return sum(1 if 0x20 <= byte <= 0x7E and byte != ord("%") else 3 for byte in text.encode())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=2000))
@example("x" * 5000)
@example("é" * 5000)
@example("%" * 5000)
@example("🂡" * 5000)
@example("x" * errors.MAX_MESSAGE_BYTES)
@example("x" * (errors.MAX_MESSAGE_BYTES + 1))
def test_message_fits_the_wire(message: str) -> None:
    cut = errors.envelope(not_found(message), origin=Origin.GATEWAY, trace_id=TRACE).message
    assert wire_size(cut) <= errors.MAX_MESSAGE_BYTES
    if wire_size(message) <= errors.MAX_MESSAGE_BYTES:
        assert cut == message
    else:
        assert cut.endswith("…")
        assert message.startswith(cut[:-1])
        assert len(cut) > 80, "as much as fits"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=600))
@example("🂡" * 500)
def test_metadata_fits(value: str) -> None:
    kept = info_of(errors.envelope(not_found(name=value), origin=Origin.GATEWAY, trace_id=TRACE)).metadata["name"]
    assert len(kept.encode()) <= errors.MAX_VALUE_BYTES
    assert kept == value or (kept.endswith("…") and value.startswith(kept[:-1]) and len(kept.encode()) > 250)


@given(st.integers(0, 400), st.integers(0, 200))
@example(100_000, 0)
@example(38, 76)
def test_violations_fit_the_trailer(count: int, length: int) -> None:
    request = BadRequest()
    for number in range(count):
        request.field_violations.add(field=f"items[{number}].{'x' * length}", description="wrong", reason="a.b")
    error = RowcallError(ErrorReason.ERROR_REASON_INVALID_REQUEST, "wrong", details=[request])
    status = errors.envelope(error, origin=Origin.GATEWAY, trace_id=TRACE, request_id="r-1")
    result = carried(status)

    assert (result.code, result.message) == (status.code, status.message)
    assert info_of(result) == info_of(status)
    kept = BadRequest()
    assert result.details[1].Unpack(kept)
    if status.ByteSize() <= errors.MAX_DETAILS_BYTES:
        assert result == status
    elif kept == request:
        # What did not fit was another detail.
        assert len(result.details) < len(status.details)
    else:
        shown = list(kept.field_violations[:-1])
        assert shown == list(request.field_violations[: len(shown)])
        assert kept.field_violations[-1].description == errors.MORE_VIOLATIONS
        next_one = request.field_violations[len(shown)]
        assert result.ByteSize() + next_one.ByteSize() > errors.MAX_DETAILS_BYTES - 400, "as many as fit"
        assert "left_out" not in info_of(result).metadata, "the violations say it themselves"


def of_handler(*details: Message, request_id: str | None = None) -> Status:
    """The status of a job whose handler ended the call with these details."""
    status = Status(code=9, message="declined", details=[any_of(each) for each in details])
    before = Status.FromString(status.SerializeToString())
    result = errors.handler_status(status, operation=OPERATION, attempt=2, trace_id=TRACE, request_id=request_id)
    assert status == before, "the handler's own object is left alone"
    assert (result.code, result.message) == (9, "declined")
    return result


def read(status: Status, kind: type[_MessageT]) -> list[_MessageT]:
    """The details of a type."""
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


OURS = {"origin": "JOB", "operation": OPERATION, "attempt": "2", "trace_id": TRACE}
DECLINED = ErrorInfo(reason="CARD_DECLINED", domain="shop.example", metadata={"card": "visa", "origin": "EU"})


def test_handlers_own_error_info_is_the_only_one() -> None:
    status = of_handler(DebugInfo(detail="d"), DECLINED)
    assert read(status, DebugInfo) == [DebugInfo(detail="d")]
    [info] = read(status, ErrorInfo)
    assert (info.reason, info.domain) == ("CARD_DECLINED", "shop.example")
    ours = {f"rowcall_{key}": value for key, value in OURS.items()}
    assert dict(info.metadata) == {"card": "visa", "origin": "EU", **ours}
    seen = info_of(status)
    assert (seen.reason, seen.domain, dict(seen.metadata)) == ("CARD_DECLINED", "shop.example", OURS)
    assert errors.our_reason(seen) == "HANDLER_ERROR"


def test_handlers_status_without_an_error_info_gets_ours() -> None:
    status = of_handler(DebugInfo(detail="d"))
    assert status.details[0] == any_of(DebugInfo(detail="d"))
    [info] = read(status, ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("HANDLER_ERROR", "rowcall.dev", OURS)


def test_last_of_several_error_infos_counts_and_the_others_are_named() -> None:
    """As clients have it that read one of them."""
    first = ErrorInfo(reason="FIRST", domain="bank.example")
    status = of_handler(first, DebugInfo(detail="d"), DECLINED)
    assert [detail.type_url.rpartition(".")[2] for detail in status.details] == [
        "DebugInfo",
        "ErrorInfo",
        "RequestInfo",
    ]
    [info] = read(status, ErrorInfo)
    assert info.reason == "CARD_DECLINED"
    assert info.metadata["rowcall_left_out"] == f"google.rpc.ErrorInfo ({first.ByteSize()} bytes)"


def test_origin_and_trace_are_in_the_request_info() -> None:
    [asked] = read(of_handler(DECLINED, request_id="r-1"), RequestInfo)
    assert asked == RequestInfo(request_id="r-1", serving_data=f"rowcall.dev origin=JOB trace_id={TRACE}")
    own = RequestInfo(request_id="bank-7", serving_data="node 3")
    assert read(of_handler(own, request_id="r-1"), RequestInfo) == [own], "the handler's own stays"


def test_handler_cannot_speak_under_our_prefix() -> None:
    forged = ErrorInfo(
        reason="X", domain="shop.example", metadata={"rowcall_origin": "GATEWAY", "rowcall_shard": "a", "x": "1"}
    )
    [info] = read(of_handler(forged), ErrorInfo)
    assert {key for key in info.metadata if not key.startswith("rowcall_")} == {"x"}
    assert dict(info_of(of_handler(forged)).metadata) == OURS


def test_handler_that_passes_on_another_calls_error() -> None:
    """Of that call the caller knows nothing: its reason, STILL_RUNNING say, is not true of this one."""
    inner = errors.envelope(
        RowcallError(ErrorReason.ERROR_REASON_STILL_RUNNING, "later", metadata={"operation": "inner"}),
        origin=Origin.GATEWAY,
        trace_id="1" * 32,
    )
    outer = errors.handler_status(inner, operation=OPERATION, attempt=4, trace_id=TRACE)
    [info] = read(outer, ErrorInfo)
    assert (info.reason, info.domain) == ("HANDLER_ERROR", "rowcall.dev")
    assert dict(info.metadata) == {
        **OURS,
        "attempt": "4",
        "passed_on": "STILL_RUNNING",
        "passed_on_operation": "inner",
    }
    assert [each.serving_data for each in read(outer, RequestInfo)] == [f"rowcall.dev origin=JOB trace_id={TRACE}"]


def test_handler_that_passes_on_another_jobs_own_error() -> None:
    """The other job's handler had an ErrorInfo: it is this one's too, with our keys of this job."""
    inner = errors.handler_status(
        Status(code=5, details=[any_of(DECLINED)]), operation="x", attempt=1, trace_id="1" * 32
    )
    outer = errors.handler_status(inner, operation=OPERATION, attempt=2, trace_id=TRACE)
    [info] = read(outer, ErrorInfo)
    assert (info.reason, info.metadata["card"]) == ("CARD_DECLINED", "visa")
    assert dict(info_of(outer).metadata) == OURS


def test_handlers_error_info_that_is_too_large_is_cut_and_reaches_clients_with_ours() -> None:
    large = ErrorInfo(reason="R" * 5000, domain="shop.example", metadata={f"k{n:04}": "x" * 1000 for n in range(1000)})
    status = of_handler(large)
    [info] = read(carried(status), ErrorInfo)
    assert info == read(status, ErrorInfo)[0]
    assert info.domain == "shop.example"
    assert info.metadata["k0000"].startswith("xxx")
    assert dict(info_of(status).metadata) == {**OURS, "left_out": info.metadata["rowcall_left_out"]}
    assert re.fullmatch(r"ErrorInfo.metadata \(10\d{5} bytes\)", info.metadata["rowcall_left_out"])


def test_handlers_code_that_is_none() -> None:
    status = errors.handler_status(Status(code=77, message="?"), operation=OPERATION, attempt=1, trace_id=TRACE)
    assert status.code == grpc.StatusCode.UNKNOWN.value[0]
    assert status.message == "?"
    assert info_of(status).metadata["wrong"] == "the code 77 is no error's"
    ok = errors.handler_status(Status(code=0), operation=OPERATION, attempt=1, trace_id=TRACE)
    assert ok.code == grpc.StatusCode.UNKNOWN.value[0]
    assert ok.message == "What the handler said is wrong: the code 0 is no error's."


@pytest.mark.parametrize(
    "kind",
    [
        *("ErrorInfo", "RetryInfo", "RequestInfo", "BadRequest", "PreconditionFailure", "QuotaFailure", "ResourceInfo"),
        *("DebugInfo", "Help", "LocalizedMessage"),
    ],
)
def test_handlers_detail_that_is_not_what_it_says_is_left_out_and_named(kind: str) -> None:
    """google-api-core unpacks these of every error, and raises DecodeError instead of the error for one that is broken."""
    broken = AnyMessage(type_url=f"type.googleapis.com/google.rpc.{kind}", value=b"\xff\xff")
    mine = AnyMessage(type_url="type.googleapis.com/shop.v1.Nobodys", value=b"\xff\xff")
    debug, last = any_of(DebugInfo(detail="d")), any_of(QuotaFailure())
    given_status = Status(code=14, message="later", details=[debug, broken, mine, last])
    status = errors.handler_status(given_status, operation=OPERATION, attempt=2, trace_id=TRACE)
    assert (status.code, status.message, list(status.details[:3])) == (14, "later", [debug, mine, last])
    assert broken not in status.details
    assert dict(info_of(status).metadata) == {**OURS, "wrong": f"details[1] is no google.rpc.{kind}"}


@pytest.mark.parametrize(("message", "kept"), [("a\x00b", "ab"), ("a\udc80b", "a?b")])
def test_text_that_no_row_could_keep_is_mended(message: str, kept: str) -> None:
    """Whoever it came from: a message or a name may be a handler's."""
    status = errors.envelope(not_found(message, name=message), origin=Origin.JOB, trace_id=TRACE)
    assert status.message == kept
    assert info_of(status).metadata["name"] in (message, kept)


def test_handlers_details_that_no_client_could_receive() -> None:
    large = Struct()
    large.update({"text": "x" * 100_000})
    small = ErrorInfo(reason="SMALL", domain="shop.example")
    given_status = Status(code=9, message="m", details=[any_of(large), any_of(small)])
    status = errors.handler_status(given_status, operation=OPERATION, attempt=1, trace_id=TRACE)
    assert status.details[0] == given_status.details[0], "the row has it all"

    result = carried(status)
    [info] = read(result, ErrorInfo)
    assert (info.reason, info.domain) == ("SMALL", "shop.example")
    assert info.metadata.pop("rowcall_left_out") == f"google.protobuf.Struct ({large.ByteSize()} bytes)"
    assert info == read(status, ErrorInfo)[0]
    assert read(result, RequestInfo) == read(status, RequestInfo)


def test_statuses_without_an_envelope() -> None:
    assert errors.read_envelope(Status(code=5)) is None
    foreign = ErrorInfo(reason="X", domain="shop.example")
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    assert errors.read_envelope(Status(code=5, details=[any_of(foreign)])) is None
    assert errors.read_envelope(Status(code=5, details=[broken])) is None
    assert carried(Status(code=5, details=[broken])).details[0] == broken
    broken_violations = AnyMessage(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff" * 5000)
    assert not carried(Status(code=5, details=[broken_violations])).details


def test_code_of_a_status() -> None:
    assert errors.grpc_code(Status(code=14)) is grpc.StatusCode.UNAVAILABLE
    assert errors.grpc_code(Status(code=99)) is grpc.StatusCode.UNKNOWN
