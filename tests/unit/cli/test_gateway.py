"""What becomes of a call that fails: told in words, with an exit status that says what to do, never as a traceback."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from rowcall.errors import DETAILS_KEY, Origin, RowcallError, envelope, handler_status
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway
from tests.fix_commands import Ran

ADDRESS = "gateway.example:50051"
NAME = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"
SHOW = ("jobs", "show", NAME, "--address", ADDRESS)
TRACE = "0af7651916cd43dd8448eb211c80319c"

BROKEN = b"\x0a\xff"
"""No message: a field that is longer than what is there."""


def enveloped(reason: ErrorReason.ValueType, message: str = "Why.", **metadata: str) -> Status:
    """An error as a gateway makes it."""
    return envelope(RowcallError(reason, message, metadata=metadata), origin=Origin.GATEWAY, trace_id=TRACE)


def failed(ran: Ran) -> tuple[int, list[str]]:
    """What a command ended with, and what it said; a result it must not have had, and no traceback."""
    assert ran.out == ""
    assert "Traceback" not in ran.err
    return ran.code, ran.err.splitlines()


def test_a_call_is_sent_with_its_tenant_and_a_deadline(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SHOW)
    call = fake_gateway.take()
    assert fake_gateway.addresses == [ADDRESS]
    assert (call.method, call.request.name) == ("JobService/GetJob", NAME)
    assert call.metadata == {"rowcall-tenant": "acme"}
    assert call.timeout == 30
    call.fail(grpc.StatusCode.INTERNAL)
    command.result(SECONDS)


def test_a_gateway_that_does_not_answer_is_waited_for_30_seconds(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SHOW)
    call = fake_gateway.take()
    fake_gateway.clock.sleep_for(29.9)
    assert not call.ended
    fake_gateway.clock.sleep_for(0.1)
    assert failed(command.result(SECONDS)) == (
        ExitCode.UNREACHABLE,
        [
            f"rowcall: No gateway answered in time at {ADDRESS}: Deadline Exceeded",
            "What it was asked for may be done all the same: look before you ask again.",
        ],
    )


def test_a_deadline_that_the_gateway_tells_of_has_its_reason(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().refuse(enveloped(ErrorReason.ERROR_REASON_DEADLINE_TOO_SHORT, "Call with more time."))
    assert failed(command.result(SECONDS)) == (
        ExitCode.FAILED,
        [
            "rowcall: DEADLINE_TOO_SHORT: Call with more time. (DEADLINE_EXCEEDED)",
            "  origin: GATEWAY",
            f"  trace_id: {TRACE}",
        ],
    )


@pytest.mark.parametrize(
    ("refusal", "todo"),
    [
        (enveloped(ErrorReason.ERROR_REASON_CREDENTIALS_REQUIRED), "Say who calls: --token-file FILE"),
        (enveloped(ErrorReason.ERROR_REASON_TENANT_REQUIRED), "Say whose: --tenant NAME, or ROWCALL_TENANT."),
        (enveloped(ErrorReason.ERROR_REASON_IDENTITY_MISMATCH, key="rowcall-tenant"), "It is sent for --tenant,"),
    ],
    ids=["who", "whose", "another's"],
)
def test_what_is_metadata_to_a_gateway_is_told_as_the_flag_that_it_is(
    fake_gateway: FakeGateway, refusal: Status, todo: str
) -> None:
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().refuse(refusal)
    code, said = failed(command.result(SECONDS))
    assert code == ExitCode.FAILED
    assert said[-1].startswith(todo)


def test_a_handlers_own_reason_is_told_and_not_taken_for_one_of_ours(fake_gateway: FakeGateway) -> None:
    """STILL_RUNNING of somebody else's domain does not say that this job goes on."""
    own = Status(code=grpc.StatusCode.ABORTED.value[0], message="The printer prints.")
    own.details.add().Pack(ErrorInfo(reason="STILL_RUNNING", domain="printers.example", metadata={"floor": "3"}))
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().refuse(handler_status(own, operation=NAME, attempt=2, trace_id=TRACE))
    assert failed(command.result(SECONDS)) == (
        ExitCode.FAILED,
        [
            "rowcall: STILL_RUNNING: The printer prints. (ABORTED)",
            "  domain: printers.example",
            "  attempt: 2",
            f"  operation: {NAME}",
            "  origin: JOB",
            f"  trace_id: {TRACE}",
        ],
    )


def test_nobody_at_the_address_has_an_exit_code_of_its_own(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().fail(grpc.StatusCode.UNAVAILABLE, "connection refused")
    assert failed(command.result(SECONDS)) == (
        ExitCode.UNREACHABLE,
        [
            f"rowcall: No gateway answers at {ADDRESS}: connection refused",
            "Start one (rowcall dev), or name another with --address or ROWCALL_ADDRESS.",
        ],
    )


def test_a_gateway_that_is_there_and_says_unavailable_is_not_taken_for_missing(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().refuse(enveloped(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "Shard a is away.", shard="a"))
    code, lines = failed(command.result(SECONDS))
    assert code == ExitCode.FAILED
    assert lines[0] == "rowcall: SHARD_UNAVAILABLE: Shard a is away. (UNAVAILABLE)"
    assert "  shard: a" in lines


def test_each_violation_is_told(fake_gateway: FakeGateway) -> None:
    status = enveloped(ErrorReason.ERROR_REASON_INVALID_REQUEST, "2 violations.")
    Violation = BadRequest.FieldViolation  # noqa: N806  a class
    violations = [Violation(field="name", description="is no name"), Violation(description="is empty")]
    status.details.add().Pack(BadRequest(field_violations=violations))
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().refuse(status)
    code, lines = failed(command.result(SECONDS))
    assert code == ExitCode.FAILED
    assert lines[:3] == [
        "rowcall: INVALID_REQUEST: 2 violations. (INVALID_ARGUMENT)",
        "  name: is no name",
        "  request: is empty",
    ]


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNKNOWN, grpc.StatusCode.PERMISSION_DENIED]
)
def test_an_error_that_is_not_of_a_gateway_is_told_as_it_came(fake_gateway: FakeGateway, code: grpc.StatusCode) -> None:
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().fail(code, "a proxy [says] so", (("server", "proxy"),))
    assert failed(command.result(SECONDS)) == (ExitCode.FAILED, [f"rowcall: {code.name}: a proxy [says] so"])


def test_a_call_that_the_other_side_cancels_is_told(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().fail(grpc.StatusCode.CANCELLED, "CANCELLED")
    assert failed(command.result(SECONDS)) == (ExitCode.FAILED, ["rowcall: CANCELLED: CANCELLED"])


def another_code() -> bytes:
    return enveloped(ErrorReason.ERROR_REASON_JOB_NOT_FOUND).SerializeToString()


def broken_info() -> bytes:
    broken = AnyMessage(type_url=f"type.googleapis.com/{ErrorInfo.DESCRIPTOR.full_name}", value=BROKEN)
    return Status(code=grpc.StatusCode.INTERNAL.value[0], message="as sent", details=[broken]).SerializeToString()


def info_of_another_domain() -> bytes:
    status = Status(code=grpc.StatusCode.INTERNAL.value[0], message="as sent")
    status.details.add().Pack(ErrorInfo(reason="QUOTA", domain="googleapis.com"))
    return status.SerializeToString()


@pytest.mark.parametrize(
    "details",
    [BROKEN, b"", "text, where bytes should be", another_code(), broken_info(), info_of_another_domain()],
    ids=["broken", "empty", "text", "of another code", "broken info", "another domain's info"],
)
def test_trailers_that_hold_no_envelope_leave_code_and_message(fake_gateway: FakeGateway, details: bytes | str) -> None:
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().fail(grpc.StatusCode.INTERNAL, "as sent", ((DETAILS_KEY, details),))
    assert failed(command.result(SECONDS)) == (ExitCode.FAILED, ["rowcall: INTERNAL: as sent"])


def test_violations_that_cannot_be_read_leave_the_rest_of_the_error(fake_gateway: FakeGateway) -> None:
    status = enveloped(ErrorReason.ERROR_REASON_INVALID_REQUEST, "Wrong.")
    status.details.add(type_url=f"type.googleapis.com/{BadRequest.DESCRIPTOR.full_name}", value=BROKEN)
    command = fake_gateway.start(*SHOW)
    fake_gateway.take().refuse(status)
    assert failed(command.result(SECONDS)) == (
        ExitCode.FAILED,
        ["rowcall: INVALID_REQUEST: Wrong. (INVALID_ARGUMENT)", "  origin: GATEWAY", f"  trace_id: {TRACE}"],
    )


def test_an_interrupted_call_is_told_and_ends_as_shells_have_it(
    fake_gateway: FakeGateway, rowcall: Callable[..., Ran]
) -> None:
    main = threading.main_thread().ident
    assert main is not None
    interrupted = threading.Event()

    def interrupt_once(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def press() -> None:
        fake_gateway.take()
        # Again until it is noticed: one that comes just before the thread sleeps does not wake it.
        for _ in range(1000):
            signal.pthread_kill(main, signal.SIGINT)
            if interrupted.wait(SECONDS / 1000):
                return

    before = signal.signal(signal.SIGINT, interrupt_once)
    try:
        with ThreadPoolExecutor(1) as threads:
            person = threads.submit(press)
            ran = rowcall(*SHOW)
            person.result(SECONDS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert failed(ran) == (
        ExitCode.INTERRUPTED,
        ["rowcall: Interrupted before the command was done. What the gateway was asked for may be done all the same."],
    )
