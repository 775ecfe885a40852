"""What a gateway's reflection may do wrong: a command that needs it says so, one that only shows payloads goes on."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import Future

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc.error_details_pb2 import RetryInfo
from grpc_reflection.v1alpha.reflection_pb2 import (
    ErrorResponse,
    FileDescriptorResponse,
    ServerReflectionResponse,
)

from rowcall.options.v1.job_pb2 import PRIORITY_NORMAL
from rowcall.probe.v1 import probe_pb2
from rowcall.v1 import job_pb2
from rowcall.v1.job_service_pb2 import GetJobResponse, SubmitResponse
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, Call, FakeGateway
from tests.fix_commands import Ran

ECHO = "rowcall.probe.v1.ProbeService/Echo"
SUBMIT = ("submit", ECHO, "--address", "gateway.example:50051")
NAME = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"
REFLECTION = "ServerReflection/ServerReflectionInfo"
NOT_DESCRIBED = f"rowcall: The gateway does not describe {ECHO}: check the name"


def files(*serialized: bytes) -> ServerReflectionResponse:
    return ServerReflectionResponse(
        file_descriptor_response=FileDescriptorResponse(file_descriptor_proto=list(serialized))
    )


def error(code: grpc.StatusCode) -> ServerReflectionResponse:
    return ServerReflectionResponse(error_response=ErrorResponse(error_code=code.value[0], error_message="no"))


def describe(call: Call) -> None:
    """Answers as a gateway does: with the file that was asked for."""
    assert call.method == REFLECTION
    if call.request.file_containing_symbol:
        file = probe_pb2.DESCRIPTOR
    else:
        file = probe_pb2.DESCRIPTOR.pool.FindFileByName(call.request.file_by_filename)
    call.answer(files(file.serialized_pb))


def describe_beside(call: Call, file: FileDescriptorProto) -> None:
    """Answers as a gateway does whose image has one more file, which the probe's does not import."""
    if call.request.file_containing_symbol in ("", "rowcall.probe.v1.ProbeService"):
        describe(call)
    else:
        call.answer(files(file.SerializeToString()))


def described(fake_gateway: FakeGateway) -> Call:
    """The first call of a command that is not one of reflection; those are answered."""
    while (call := fake_gateway.take()).method == REFLECTION:
        describe(call)
    return call


WRONG: dict[str, Callable[[Call], None]] = {
    "switched off": lambda call: call.fail(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
    "no such symbol": lambda call: call.answer(error(grpc.StatusCode.NOT_FOUND)),
    "another error": lambda call: call.answer(error(grpc.StatusCode.INTERNAL)),
    "no file": lambda call: call.answer(files()),
    "another file": lambda call: call.answer(files(AnyMessage.DESCRIPTOR.file.serialized_pb)),
    "broken file": lambda call: call.answer(files(b"\x0a\xff")),
    "file that makes no sense": lambda call: call.answer(
        files(FileDescriptorProto(name="rowcall/probe/v1/probe.proto", package="!").SerializeToString())
    ),
    "no answer": lambda call: call.fail(grpc.StatusCode.OK),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_method_that_is_not_described_is_told(fake_gateway: FakeGateway, wrong: Callable[[Call], None]) -> None:
    command = fake_gateway.start(*SUBMIT)
    call = fake_gateway.take()
    assert (call.method, call.request.file_containing_symbol) == (REFLECTION, "rowcall.probe.v1.ProbeService")
    wrong(call)
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.FAILED, "")
    assert ran.err.startswith(NOT_DESCRIBED)
    assert "Traceback" not in ran.err


def test_a_file_that_does_not_come_is_told_like_any_call(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SUBMIT)
    fake_gateway.take().fail(grpc.StatusCode.UNAVAILABLE, "connection refused")
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.UNREACHABLE
    assert ran.err.startswith("rowcall: No gateway answers at gateway.example:50051: connection refused")


def test_reflection_is_waited_for_no_longer_than_another_call(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SUBMIT)
    call = fake_gateway.take()
    assert call.timeout == 30
    fake_gateway.clock.sleep_for(30)
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.UNREACHABLE
    assert ran.err.startswith("rowcall: No gateway answered in time at gateway.example:50051: Deadline Exceeded")


def test_a_described_method_is_called_with_the_message_that_the_json_says(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SUBMIT, "--json", '{"payload": "aGVsbG8="}')
    call = described(fake_gateway)
    assert call.method == "JobService/Submit"
    assert call.request.job.request.type_url == "type.googleapis.com/rowcall.probe.v1.EchoRequest"
    assert probe_pb2.EchoRequest.FromString(call.request.job.request.value).payload == b"hello"
    call.answer(SubmitResponse())
    assert command.result(SECONDS).code == ExitCode.OK


def show(fake_gateway: FakeGateway, payload: AnyMessage) -> Future[Ran]:
    """Starts a command that is given a job with a payload, and shows it."""
    command = fake_gateway.start("jobs", "show", NAME, "--full", "--json")
    job = job_pb2.Job(name=NAME, method=ECHO, priority=PRIORITY_NORMAL)
    job.request.CopyFrom(payload)
    fake_gateway.take().answer(GetJobResponse(job=job))
    return command


ECHOED = AnyMessage()
ECHOED.Pack(probe_pb2.EchoRequest(payload=b"hello"))


def test_a_payload_is_shown_by_its_description(fake_gateway: FakeGateway) -> None:
    command = show(fake_gateway, ECHOED)
    while (call := fake_gateway.next_call()) is not None:
        describe(call)
    assert command.result(SECONDS).json["request"] == {"@type": ECHOED.type_url, "payload": "aGVsbG8="}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_payload_that_is_not_described_is_shown_as_bytes(
    fake_gateway: FakeGateway, wrong: Callable[[Call], None]
) -> None:
    command = show(fake_gateway, ECHOED)
    wrong(fake_gateway.take())
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK, ran.err
    assert ran.json["request"] == {"@type": ECHOED.type_url, "base64": "CgVoZWxsbw=="}


def test_a_payload_is_of_its_methods_image_and_of_no_other(fake_gateway: FakeGateway) -> None:
    """What is described by its name alone may be another image's."""
    command = show(fake_gateway, ECHOED)
    call = fake_gateway.take()
    assert call.request.file_containing_symbol == "rowcall.probe.v1.ProbeService"
    call.answer(error(grpc.StatusCode.NOT_FOUND))
    assert fake_gateway.next_call() is None
    assert command.result(SECONDS).json["request"] == {"@type": ECHOED.type_url, "base64": "CgVoZWxsbw=="}


def test_a_payload_that_is_no_message_of_its_type_is_shown_as_bytes(fake_gateway: FakeGateway) -> None:
    command = show(fake_gateway, AnyMessage(type_url=ECHOED.type_url, value=b"\x0a\xff"))
    while (call := fake_gateway.next_call()) is not None:
        describe(call)
    assert command.result(SECONDS).json["request"] == {"@type": ECHOED.type_url, "base64": "Cv8="}


def test_details_and_payloads_that_json_has_no_form_for_are_shown_as_bytes(fake_gateway: FakeGateway) -> None:
    """A handler's RetryInfo may say three million years, or not be what it says."""
    command = fake_gateway.start("jobs", "show", NAME, "--full", "--json")
    job = job_pb2.Job(name=NAME, method=ECHO, priority=PRIORITY_NORMAL)
    job.error.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=99_999_999_999_999)))
    job.error.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff")
    job.response.Pack(Duration(seconds=99_999_999_999_999))
    fake_gateway.take().answer(GetJobResponse(job=job))
    while (call := fake_gateway.next_call()) is not None:
        symbol = call.request.file_containing_symbol
        file = (RetryInfo if symbol == "google.rpc.RetryInfo" else Duration).DESCRIPTOR.file
        describe_beside(call, FileDescriptorProto.FromString(file.serialized_pb))
    shown = command.result(SECONDS).json
    assert shown["error"]["details"] == [
        {"@type": detail.type_url, "base64": base64.b64encode(detail.value).decode()} for detail in job.error.details
    ]
    assert shown["response"] == {
        "@type": job.response.type_url,
        "base64": base64.b64encode(job.response.value).decode(),
    }


def test_a_payload_whose_json_is_no_object_is_shown(fake_gateway: FakeGateway) -> None:
    payload = AnyMessage()
    payload.Pack(BytesValue(value=b"hello"))
    command = show(fake_gateway, payload)
    while (call := fake_gateway.next_call()) is not None:
        describe_beside(call, FileDescriptorProto.FromString(BytesValue.DESCRIPTOR.file.serialized_pb))
    assert command.result(SECONDS).json["request"] == {"@type": payload.type_url, "value": "aGVsbG8="}


def secret_file() -> FileDescriptorProto:
    """A file with a message that has a secret field."""
    file = FileDescriptorProto(name="acme/v1/card.proto", package="acme.v1", syntax="proto3")
    card = file.message_type.add(name="Card")
    card.field.add(name="holder", number=1, type=9, label=1, json_name="holder")
    card.field.add(name="card_number", number=2, type=9, label=1, json_name="cardNumber").options.debug_redact = True
    return file


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\x0a\x03Ada\x12\x044711", {"holder": "Ada", "cardNumber": "[REDACTED]"}),
        # Cut off: it is no message, and is not shown as bytes either.
        (b"\x12\x044711\x0a\x03", {"redacted": "8 bytes"}),
    ],
)
def test_a_secret_field_is_not_shown(fake_gateway: FakeGateway, value: bytes, shown: dict[str, str]) -> None:
    """Whether a field is secret ([debug_redact = true]) is in its description."""
    payload = AnyMessage(type_url="type.googleapis.com/acme.v1.Card", value=value)
    command = show(fake_gateway, payload)
    while (call := fake_gateway.next_call()) is not None:
        describe_beside(call, secret_file())
    ran = command.result(SECONDS)
    assert ran.json["request"] == {"@type": payload.type_url, **shown}
    assert "4711" not in ran.out


def test_what_the_gateway_withheld_is_told_by_type_and_size(fake_gateway: FakeGateway) -> None:
    payload = AnyMessage()
    payload.Pack(job_pb2.Withheld(type="acme.v1.Card", size_bytes=12))
    command = show(fake_gateway, payload)
    assert fake_gateway.next_call() is None
    assert command.result(SECONDS).json["request"] == {"withheld": "acme.v1.Card", "bytes": 12}
