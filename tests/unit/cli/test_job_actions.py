"""`rowcall jobs cancel`, `retry` and `resolve`: the requests that are sent, and calls that fail before or after the question."""

from __future__ import annotations

import grpc
import pytest

from rowcall.errors import Origin, RowcallError, envelope
from rowcall.v1 import job_pb2, job_service_pb2
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_service_pb2 import JobFilter, JobSelection, JobSelectionResult
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway

NAME = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"
OTHER = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000001"
TRACE = "0af7651916cd43dd8448eb211c80319c"

ONE = [("cancel", "CancelJob"), ("retry", "RetryJob"), ("resolve", "ResolveJob")]
MANY = [
    ("cancel", "BatchCancelJobs", job_service_pb2.BatchCancelJobsResponse),
    ("retry", "BatchRetryJobs", job_service_pb2.BatchRetryJobsResponse),
    ("resolve", "BatchResolveJobs", job_service_pb2.BatchResolveJobsResponse),
]


@pytest.mark.parametrize(("verb", "method"), ONE)
def test_a_refusal_of_one_job_is_told_with_its_reason(fake_gateway: FakeGateway, verb: str, method: str) -> None:
    command = fake_gateway.start("jobs", verb, NAME)
    call = fake_gateway.take()
    assert (call.method, call.timeout, call.metadata) == (f"JobService/{method}", 30, {"rowcall-tenant": "acme"})
    assert call.request.name == NAME
    error = RowcallError(ErrorReason.ERROR_REASON_JOB_NOT_FOUND, "No such job.", metadata={"operation": NAME})
    call.refuse(envelope(error, origin=Origin.GATEWAY, trace_id=TRACE))
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.FAILED, "")
    assert ran.err.splitlines()[0] == "rowcall: JOB_NOT_FOUND: No such job. (NOT_FOUND)"


@pytest.mark.parametrize(("verb", "method"), ONE)
def test_one_job_is_meant_by_its_id_alone(fake_gateway: FakeGateway, verb: str, method: str) -> None:
    command = fake_gateway.start("jobs", verb, NAME.rpartition("/")[2], "--tenant", "acme")
    call = fake_gateway.take()
    assert (call.method, call.request.name) == (f"JobService/{method}", NAME)
    assert call.metadata == {"rowcall-tenant": "acme"}
    call.fail(grpc.StatusCode.NOT_FOUND, "no such job")
    assert command.result(SECONDS).code == ExitCode.FAILED


def test_ids_alone_among_names_are_jobs_of_the_same_tenant(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "cancel", OTHER.rpartition("/")[2], NAME)
    call = fake_gateway.take()
    assert call.request.selection == JobSelection(names=[OTHER, NAME])
    assert call.metadata == {"rowcall-tenant": "acme"}
    call.fail(grpc.StatusCode.NOT_FOUND, "no such jobs")
    assert command.result(SECONDS).code == ExitCode.FAILED


@pytest.mark.parametrize(
    ("job", "code", "says"),
    [
        (job_pb2.Job(state=job_pb2.JOB_STATE_CANCELLED), ExitCode.OK, "is cancelled."),
        (
            job_pb2.Job(state=job_pb2.JOB_STATE_RUNNING, cancel_requested=True, attempt=2),
            ExitCode.OK,
            "runs (attempt 2): it is marked, and its handler decides when it ends.",
        ),
        (
            job_pb2.Job(state=job_pb2.JOB_STATE_SUCCEEDED),
            ExitCode.FAILED,
            "was succeeded already: nothing is left to cancel.",
        ),
    ],
)
def test_what_became_of_a_cancelled_job_is_told(
    fake_gateway: FakeGateway, job: job_pb2.Job, code: ExitCode, says: str
) -> None:
    command = fake_gateway.start("jobs", "cancel", NAME)
    fake_gateway.take().answer(job_service_pb2.CancelJobResponse(job=job))
    ran = command.result(SECONDS)
    assert ran.code == code
    assert ran.err.removeprefix("rowcall: ") == f"{NAME} {says}\n"


@pytest.mark.parametrize(("verb", "method", "response"), MANY)
def test_many_are_given_ten_minutes_and_told_as_perhaps_done_after_them(
    fake_gateway: FakeGateway, verb: str, method: str, response: type
) -> None:
    command = fake_gateway.start("jobs", verb, "--queue", "mail", "--limit", "7", "--yes")
    call = fake_gateway.take()
    assert call.method == f"JobService/{method}"
    assert call.request.selection == JobSelection(filter=JobFilter(queue="mail"), limit=7)
    fake_gateway.clock.sleep_for(599)
    assert not call.ended
    fake_gateway.clock.sleep_for(1)
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.UNREACHABLE, "")
    assert "may be done all the same" in ran.err


@pytest.mark.parametrize(("verb", "method", "response"), MANY)
def test_nothing_is_done_unasked_where_nobody_can_be_asked(
    fake_gateway: FakeGateway, verb: str, method: str, response: type
) -> None:
    command = fake_gateway.start("jobs", verb, "--all")
    call = fake_gateway.take()
    assert call.method == f"JobService/{method}"
    assert call.request.selection.dry_run
    call.answer(response(result=JobSelectionResult(matched=3, more=True)))
    assert fake_gateway.next_call() is None
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert ran.err.startswith("rowcall: 3 or more jobs match; nothing was done.")


def test_a_count_that_fails_asks_nobody(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "retry", "--all")
    fake_gateway.take().fail(grpc.StatusCode.CANCELLED, "by a proxy")
    assert fake_gateway.next_call() is None
    ran = command.result(SECONDS)
    assert (ran.code, ran.err) == (ExitCode.FAILED, "rowcall: CANCELLED: by a proxy\n")


def test_named_jobs_that_are_refused_are_told_one_by_one(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "resolve", NAME, OTHER, "--note", "disk")
    call = fake_gateway.take()
    assert (call.request.selection, call.request.note) == (JobSelection(names=[NAME, OTHER]), "disk")
    result = JobSelectionResult(matched=1, done=1)
    result.refused.add(name=OTHER).error.code = grpc.StatusCode.NOT_FOUND.value[0]
    call.answer(job_service_pb2.BatchResolveJobsResponse(result=result))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.FAILED
    assert f"{OTHER}  NOT_FOUND: " in ran.out
    assert ran.err == "1 jobs are marked as handled.\nrowcall: 1 of the named jobs were refused.\n"


def test_more_than_the_limit_has_an_exit_code_of_its_own(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "retry", "--all", "--yes", "--json")
    fake_gateway.take().answer(
        job_service_pb2.BatchRetryJobsResponse(result=JobSelectionResult(matched=5, done=5, more=True))
    )
    ran = command.result(SECONDS)
    assert (ran.code, ran.json["done"]) == (ExitCode.UNFINISHED, 5)
    assert "More are left" in ran.err


@pytest.mark.parametrize("words", [("not-a-name",), (), (NAME, "--all")])
def test_a_wrong_command_line_calls_nobody(fake_gateway: FakeGateway, words: tuple[str, ...]) -> None:
    command = fake_gateway.start("jobs", "cancel", *words)
    assert fake_gateway.next_call() is None
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert "Traceback" not in ran.err
