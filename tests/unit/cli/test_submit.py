"""`rowcall submit`: what is sent, how long it is waited for, and what becomes of a job is told by the exit status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.longrunning.operations_pb2 import Operation
from google.rpc.status_pb2 import Status

from rowcall.errors import Origin, RowcallError, envelope
from rowcall.options.v1.job_pb2 import PRIORITY_LOW, PRIORITY_UNSPECIFIED
from rowcall.probe.v1 import probe_pb2
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_service_pb2 import SubmitResponse
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, Call, FakeGateway
from tests.unit.cli.test_reflection import described

ECHO = "rowcall.probe.v1.ProbeService/Echo"
NAME = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"
SUBMIT = ("submit", ECHO, "--tenant", "acme")
TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_what_is_said_is_what_is_sent(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(
        "submit",
        f"/{ECHO}",
        "--tenant",
        "acme",
        "--json",
        "-",
        "--key",
        "k-1",
        "--wait",
        "7",
        stdin='{"payload": "AA=="}',
    )
    call = described(fake_gateway)
    assert call.method == "JobService/Submit"
    assert call.metadata == {"rowcall-tenant": "acme", "prefer": "wait=7"}
    assert (call.request.job.method, call.request.job.request_id) == (ECHO, "k-1")
    assert probe_pb2.EchoRequest.FromString(call.request.job.request.value) == probe_pb2.EchoRequest(payload=b"\0")
    call.answer(SubmitResponse(operation=Operation(name=NAME, done=True), joined=True))
    ran = command.result(SECONDS)
    assert (ran.code, ran.json) == (ExitCode.OK, {"name": NAME, "done": True, "joined": True})
    assert ran.err == "The key named a job that was there already: joined it.\n"


def test_labels_time_and_priority_are_the_jobs(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(
        *SUBMIT,
        *("--label", "team=clocks", "--label", "ticket=A=1"),
        *("--run-at", "2031-05-04T13:30:00+02:00", "--priority", "low"),
    )
    call = described(fake_gateway)
    spec = call.request.job
    assert dict(spec.labels) == {"team": "clocks", "ticket": "A=1"}
    assert spec.run_time.ToDatetime(tzinfo=UTC) == datetime(2031, 5, 4, 11, 30, tzinfo=UTC)
    assert spec.priority == PRIORITY_LOW
    call.answer(SubmitResponse(operation=Operation(name=NAME)))
    assert command.result(SECONDS).code == ExitCode.OK


def test_a_job_of_which_nothing_more_is_said_has_its_methods_lane_and_starts_at_once(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(*SUBMIT)
    call = described(fake_gateway)
    assert (call.request.job.priority, call.request.job.HasField("run_time")) == (PRIORITY_UNSPECIFIED, False)
    assert not call.request.job.labels
    call.answer(SubmitResponse(operation=Operation(name=NAME)))
    assert command.result(SECONDS).code == ExitCode.OK


def test_a_time_may_be_said_from_now(fake_gateway: FakeGateway) -> None:
    before = datetime.now(UTC)
    command = fake_gateway.start(*SUBMIT, "--run-at", "90m")
    call = described(fake_gateway)
    asked = call.request.job.run_time.ToDatetime(tzinfo=UTC) - timedelta(minutes=90)
    assert before <= asked <= datetime.now(UTC)
    call.answer(SubmitResponse(operation=Operation(name=NAME)))
    assert command.result(SECONDS).code == ExitCode.OK


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--label", "team"), "--label 'team' is no label: write KEY=VALUE."),
        (("--label", "team=a", "--label", "team=b"), "--label gives 'team' two values: a job has one."),
        (
            ("--run-at", "tomorrow"),
            "--run-at 'tomorrow' is no time: write 2031-05-04T13:30:00+02:00, or 2h for two hours from",
        ),
        (("--priority", "lowest"), "'lowest'"),
    ],
)
def test_a_flag_that_is_wrong_is_told_before_anybody_is_called(
    fake_gateway: FakeGateway, flags: tuple[str, ...], what: str
) -> None:
    command = fake_gateway.start(*SUBMIT, *flags)
    assert fake_gateway.next_call() is None
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert what in ran.err


@pytest.mark.parametrize(("wait", "seconds"), [(0, 30.0), (60, 90.0)])
def test_the_deadline_leaves_room_for_the_wait(fake_gateway: FakeGateway, wait: int, seconds: float) -> None:
    command = fake_gateway.start(*SUBMIT, "--wait", str(wait))
    call = described(fake_gateway)
    fake_gateway.clock.sleep_for(seconds - 0.1)
    assert not call.ended
    fake_gateway.clock.sleep_for(0.1)
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.UNREACHABLE, "")
    assert "No gateway answered in time" in ran.err
    assert "may be done all the same" in ran.err, "the job may have been written"


def answered(fake_gateway: FakeGateway, operation: Operation, *flags: str) -> tuple[int, str]:
    """What a command ends with that is given this operation, and what it says."""
    command = fake_gateway.start(*SUBMIT, *flags)
    described(fake_gateway).answer(SubmitResponse(operation=operation))
    ran = command.result(SECONDS)
    assert ran.json["name"] == NAME
    return ran.code, ran.err


def test_a_job_that_goes_on_after_the_wait_is_no_failure(fake_gateway: FakeGateway) -> None:
    assert answered(fake_gateway, Operation(name=NAME), "--wait", "1") == (
        ExitCode.UNFINISHED,
        f"rowcall: Not finished within 1 s; it goes on. Look again: rowcall jobs show {NAME}\n",
    )


def test_a_job_that_nobody_waits_for_is_done_when_it_is_written(fake_gateway: FakeGateway) -> None:
    assert answered(fake_gateway, Operation(name=NAME)) == (ExitCode.OK, "")


BARE = Status(code=grpc.StatusCode.DATA_LOSS.value[0], message="gone")
FULL = envelope(RowcallError(ErrorReason.ERROR_REASON_ATTEMPT_TIMEOUT, "Too long."), origin=Origin.JOB, trace_id=TRACE)


@pytest.mark.parametrize(
    ("status", "text"), [(BARE, "DATA_LOSS: gone"), (FULL, "ATTEMPT_TIMEOUT: Too long. (DEADLINE_EXCEEDED)")]
)
def test_a_job_that_failed_is_told_with_its_reason_or_without_one(
    fake_gateway: FakeGateway, status: Status, text: str
) -> None:
    assert answered(fake_gateway, Operation(name=NAME, done=True, error=status)) == (
        ExitCode.FAILED,
        f"rowcall: The job failed: {text}\nWhat happened to it: rowcall trace {NAME}\n",
    )


def refused(call: Call, reason: ErrorReason.ValueType) -> None:
    error = RowcallError(reason, "As it is.", metadata={"operation": NAME})
    call.refuse(envelope(error, origin=Origin.GATEWAY, trace_id=TRACE))


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (ErrorReason.ERROR_REASON_STILL_RUNNING, ExitCode.UNFINISHED),
        (ErrorReason.ERROR_REASON_COMMIT_UNKNOWN, ExitCode.FAILED),
        (ErrorReason.ERROR_REASON_GATEWAY_DRAINING, ExitCode.FAILED),
    ],
)
def test_an_error_over_a_job_that_may_be_there_names_its_operation(
    fake_gateway: FakeGateway, reason: ErrorReason.ValueType, code: ExitCode
) -> None:
    command = fake_gateway.start(*SUBMIT)
    refused(described(fake_gateway), reason)
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (code, "")
    assert f"  operation: {NAME}" in ran.err.splitlines()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "--json is no rowcall.probe.v1.EchoRequest: "),
        ('{"payload": "aGVs!bG8="}', "payload holds bytes and is not base64"),
        ('{"nothing": 1}', "nothing"),
    ],
)
def test_json_that_does_not_fit_is_not_sent(fake_gateway: FakeGateway, text: str, what: str) -> None:
    command = fake_gateway.start(*SUBMIT, "--json", text)
    with pytest.raises(AssertionError, match="no further call was made"):
        described(fake_gateway)
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert what in ran.err
    assert "Traceback" not in ran.err
