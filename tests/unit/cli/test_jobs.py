"""`rowcall jobs show`, `list` and `failures`: the requests that are sent, and calls that fail half-way."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from rowcall.options.v1.job_pb2 import PRIORITY_NORMAL
from rowcall.v1 import job_pb2
from rowcall.v1.job_service_pb2 import (
    JOB_VIEW_BASIC,
    JOB_VIEW_FULL,
    FailureGroup,
    GetJobResponse,
    JobView,
    ListFailureGroupsResponse,
    ListJobsResponse,
)
from rowcall_cli.errors import ExitCode
from rowcall_cli.job_output import time_text
from tests.fix_channel import SECONDS, FakeGateway

ID = "0199d1f0-0000-7000-8000-00000000000a"
NAME = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"


def job(number: int = 0) -> job_pb2.Job:
    return job_pb2.Job(name=f"{NAME[:-1]}{number}", priority=PRIORITY_NORMAL, state=job_pb2.JOB_STATE_RUNNING)


SINCE = Timestamp(seconds=1_935_668_400)


def wait(
    reason: str,
    description: str,
    *,
    start_time: Timestamp | None = None,
    actor: str = "",
    note: str = "",
    worker: str = "",
    ahead: int | None = None,
) -> job_pb2.Wait:
    return job_pb2.Wait(
        reason=job_pb2.WaitReason.Value(f"WAIT_REASON_{reason}"),
        description=description,
        start_time=start_time,
        actor=actor,
        note=note,
        worker=worker,
        ahead=ahead,
    )


def waiting(*waits: job_pb2.Wait) -> job_pb2.Job:
    made = job()
    made.state = job_pb2.JOB_STATE_READY
    made.method, made.queue = "acme.v1.PrintService/Print", "printing"
    made.waits.extend(waits)
    return made


def waits_for(out: str) -> list[str]:
    """What is told under this name, line by line."""
    label = "waits for"
    return [line.removeprefix(label).strip() for line in out.splitlines() if line.startswith(label)]


@pytest.mark.parametrize(("flags", "view"), [((), JOB_VIEW_BASIC), (("--full",), JOB_VIEW_FULL)])
def test_payloads_are_asked_for_where_they_are_wanted(
    fake_gateway: FakeGateway, flags: tuple[str, ...], view: JobView.ValueType
) -> None:
    command = fake_gateway.start("jobs", "show", NAME, *flags)
    call = fake_gateway.take()
    assert (call.request.name, call.request.view) == (NAME, view)
    call.answer(GetJobResponse(job=job()))
    assert NAME in command.result(SECONDS).out


def test_a_job_that_waits_is_told_with_all_that_it_waits_for(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "show", NAME)
    shown = waiting(
        wait("QUEUE_PAUSED", "Its queue is paused.", start_time=SINCE, actor="ada", note="no paper"),
        wait("TENANT_PAUSED", "Its tenant is paused.", start_time=SINCE),
        wait("METHOD_NOT_SERVED", "No worker serves its method.", start_time=SINCE, worker="press-1-ab"),
        wait("QUEUE_NOT_SERVED", "No worker that serves its method serves its queue."),
    )
    fake_gateway.take().answer(GetJobResponse(job=shown))
    ran = command.result(SECONDS)
    assert (ran.code, ran.err) == (ExitCode.OK, "")
    since = f"since {time_text(SINCE)}"
    assert waits_for(ran.out) == [
        f"its queue is paused, {since}, by ada: no paper",
        f"its tenant is paused, {since}",
        f"no worker serves its method, {since}, when press-1-ab was gone",
        "no worker that serves its method serves its queue: none ever has",
    ]


@pytest.mark.parametrize(
    ("ahead", "told"), [(0, ": it is next"), (7, ": 7 before it"), (1000, ": 1000 or more before it"), (None, "")]
)
def test_a_job_that_nothing_keeps_says_whose_turn_is_before_its_own(
    fake_gateway: FakeGateway, ahead: int | None, told: str
) -> None:
    command = fake_gateway.start("jobs", "show", NAME)
    shown = waiting(wait("TURN", "It waits for its turn and a worker's free slot.", ahead=ahead))
    fake_gateway.take().answer(GetJobResponse(job=shown))
    assert waits_for(command.result(SECONDS).out) == [f"it waits for its turn and a worker's free slot{told}"]


def test_all_the_reasons_that_hold_a_job_are_told(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "show", NAME)
    shown = waiting()
    shown.holds.extend([job_pb2.HOLD_PAUSED, job_pb2.HOLD_SUSPECT, job_pb2.HOLD_LIMITED])
    shown.holds.append(77)  # type: ignore[arg-type]
    fake_gateway.take().answer(GetJobResponse(job=shown))
    [state] = [line for line in command.result(SECONDS).out.splitlines() if line.startswith("state")]
    assert state.removeprefix("state").strip() == (
        "ready, held: its tenant or method is paused, held: its workers died twice, it runs apart from others, "
        "held: as many run as its limit allows, held"
    )


def test_an_attempt_says_where_its_handler_raised(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "show", NAME, "--wide")
    shown = job()
    shown.attempts.add(attempt=1, location="acme.printing.servicer:Printer.print:42")
    fake_gateway.take().answer(GetJobResponse(job=shown))
    header, row = command.result(SECONDS).out.splitlines()[-2:]
    assert header.rstrip().endswith("raised at")
    assert row.rstrip().endswith("acme.printing.servicer:Printer.print:42")


def test_what_a_newer_gateway_knows_is_told_in_its_words(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "show", NAME)
    shown = waiting(job_pb2.Wait(reason=job_pb2.WaitReason.ValueType(99), description="The moon is not full."))
    fake_gateway.take().answer(GetJobResponse(job=shown))
    assert waits_for(command.result(SECONDS).out) == ["the moon is not full"]


def test_what_waits_is_listed_with_what_it_waits_for(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "list", "--waiting", "--queue", "printing")
    call = fake_gateway.take()
    assert list(call.request.filter.states) == [
        job_pb2.JOB_STATE_SCHEDULED,
        job_pb2.JOB_STATE_READY,
        job_pb2.JOB_STATE_WAITING,
    ]
    assert call.request.filter.queue == "printing"
    shown = waiting(wait("TIME", "It is not due yet."), wait("METHOD_NOT_SERVED", "No worker serves its method."))
    call.answer(ListJobsResponse(jobs=[shown]))
    header, row = command.result(SECONDS).out.splitlines()
    assert header.split() == ["name", "method", "queue", "state", "created", "waits", "for"]
    assert row.split(maxsplit=4)[:4] == [NAME, "acme.v1.PrintService/Print", "printing", "ready"]
    assert row.rstrip().endswith("it is not due yet; no worker serves its method: none ever has")


def test_waiting_is_a_state_of_its_own(fake_gateway: FakeGateway) -> None:
    ran = fake_gateway.start("jobs", "list", "--waiting", "--state", "failed").result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert "--waiting is --state scheduled --state ready" in ran.err


def test_the_tenant_that_was_said_goes_before_the_one_in_the_name(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "show", NAME, "--tenant", "other")
    call = fake_gateway.take()
    assert call.metadata == {"rowcall-tenant": "other"}
    call.fail(grpc.StatusCode.NOT_FOUND, "not yours")
    assert command.result(SECONDS).code == ExitCode.FAILED


@pytest.mark.parametrize(
    ("words", "variables", "tenant"),
    [
        ((ID,), {}, "default"),
        ((ID.upper(),), {}, "default"),
        ((ID, "--tenant", "acme"), {}, "acme"),
        ((ID,), {"ROWCALL_TENANT": "acme"}, "acme"),
        ((f"tenants/acme/operations/{ID}",), {}, "acme"),
    ],
)
def test_an_id_alone_is_a_job_of_the_tenant_that_is_called_for(
    fake_gateway: FakeGateway, words: tuple[str, ...], variables: dict[str, str], tenant: str
) -> None:
    command = fake_gateway.start("jobs", "show", *words, **variables)
    call = fake_gateway.take()
    assert call.metadata == {"rowcall-tenant": tenant}
    assert call.request.name == f"tenants/{tenant}/operations/{ID}"
    call.answer(GetJobResponse(job=job()))
    assert command.result(SECONDS).code == ExitCode.OK


@pytest.mark.parametrize(
    "name", [ID[:-1], ID.replace("-", ""), f"{{{ID}}}", f"operations/{ID}", "tenants/A/operations/1"]
)
def test_what_is_no_name_is_told_with_what_one_looks_like(fake_gateway: FakeGateway, name: str) -> None:
    command = fake_gateway.start("jobs", "show", name)
    assert fake_gateway.next_call() is None
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert f"{name!r} is not a job's name: it looks like tenants/{{tenant}}/operations/{{uuid}}, or the uuid" in ran.err


def test_a_parent_may_be_an_id_alone(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "list", "--parent", ID, "--tenant", "acme")
    call = fake_gateway.take()
    assert call.request.filter.parent == f"tenants/acme/operations/{ID}"
    call.answer(ListJobsResponse())
    assert command.result(SECONDS).code == ExitCode.OK


def test_a_list_goes_on_from_page_to_page_up_to_its_limit(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(
        "jobs", "list", "--tenant", "acme", "--queue", "mail", "--state", "failed", "--limit", "1200"
    )
    first = fake_gateway.take()
    assert (first.method, first.timeout, first.metadata) == ("JobService/ListJobs", 30, {"rowcall-tenant": "acme"})
    assert list(first.request.filter.states) == [job_pb2.JOB_STATE_FAILED]
    assert (first.request.filter.queue, first.request.page_size, first.request.page_token) == ("mail", 1000, "")
    first.answer(ListJobsResponse(jobs=[job() for _ in range(1000)], next_page_token="t1"))
    second = fake_gateway.take()
    assert second.request.filter == first.request.filter
    assert (second.request.page_size, second.request.page_token) == (200, "t1")
    second.answer(ListJobsResponse(jobs=[job(7)] * 200, next_page_token="t2"))
    assert fake_gateway.next_call() is None
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    assert len(ran.out.splitlines()) == 1201
    assert "go on with --page-token t2" in ran.err


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, ExitCode.UNREACHABLE),
        (grpc.StatusCode.CANCELLED, ExitCode.FAILED),
        (grpc.StatusCode.INTERNAL, ExitCode.FAILED),
    ],
)
def test_half_a_list_is_not_shown_as_a_whole_one(
    fake_gateway: FakeGateway, code: grpc.StatusCode, exit_code: ExitCode
) -> None:
    command = fake_gateway.start("jobs", "list")
    fake_gateway.take().answer(ListJobsResponse(jobs=[job()], next_page_token="t1"))
    fake_gateway.take().fail(code, "half-way")
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (exit_code, "")
    assert "half-way" in ran.err
    assert "Traceback" not in ran.err


def test_dead_letters_are_told_with_their_error(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "failures", "--method", "a.v1.S/M", "--limit", "3", "--tenant", "acme")
    call = fake_gateway.take()
    assert (call.method, call.timeout, call.metadata) == (
        "JobService/ListFailureGroups",
        30,
        {"rowcall-tenant": "acme"},
    )
    assert (call.request.method, call.request.page_size) == ("a.v1.S/M", 3)
    status = Status(code=grpc.StatusCode.DATA_LOSS.value[0], message="gone")
    call.answer(ListFailureGroupsResponse(groups=[FailureGroup(job_count=2, method="a.v1.S/M", error=status)]))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    assert "DATA_LOSS: gone" in ran.out


def test_a_job_of_a_newer_gateway_is_shown_all_the_same(fake_gateway: FakeGateway) -> None:
    """Its states, outcomes and lanes may be more than this command knows."""
    newer = job()
    newer.state = 77  # type: ignore[assignment]
    newer.priority = 78  # type: ignore[assignment]
    newer.attempts.add(attempt=1, outcome=79)
    newer.error.code = 80
    command = fake_gateway.start("jobs", "show", NAME)
    fake_gateway.take().answer(GetJobResponse(job=newer))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    for number in ("77", "78", "79", "UNKNOWN"):
        assert number in ran.out
