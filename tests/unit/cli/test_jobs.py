"""`rowcall jobs show`, `list` and `failures`: the requests that are sent, and calls that fail half-way."""

from __future__ import annotations

import grpc
import pytest
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
from rowcall.v1.queue_service_pb2 import ListPausesResponse, Pause, PauseInfo, PauseTarget
from rowcall_cli.errors import ExitCode
from rowcall_cli.job_output import time_text
from tests.fix_channel import SECONDS, FakeGateway

ID = "0199d1f0-0000-7000-8000-00000000000a"
NAME = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"


def job(number: int = 0) -> job_pb2.Job:
    return job_pb2.Job(name=f"{NAME[:-1]}{number}", priority=PRIORITY_NORMAL, state=job_pb2.JOB_STATE_RUNNING)


def pause(actor: str, note: str, **target: str) -> Pause:
    info = PauseInfo(actor=actor, note=note)
    info.pause_time.FromJsonString("2031-05-04T13:30:00Z")
    return Pause(target=PauseTarget(**target), info=info)


def waiting() -> job_pb2.Job:
    made = job()
    made.state = job_pb2.JOB_STATE_READY
    made.method, made.queue = "acme.v1.PrintService/Print", "printing"
    return made


@pytest.mark.parametrize(("flags", "view"), [((), JOB_VIEW_BASIC), (("--full",), JOB_VIEW_FULL)])
def test_payloads_are_asked_for_where_they_are_wanted(
    fake_gateway: FakeGateway, flags: tuple[str, ...], view: JobView.ValueType
) -> None:
    command = fake_gateway.start("jobs", "show", NAME, *flags)
    call = fake_gateway.take()
    assert (call.request.name, call.request.view) == (NAME, view)
    call.answer(GetJobResponse(job=job()))
    assert NAME in command.result(SECONDS).out


def test_a_job_that_waits_is_told_with_what_pauses_it(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "show", NAME)
    fake_gateway.take().answer(GetJobResponse(job=waiting()))
    call = fake_gateway.take()
    assert (call.method, call.metadata) == ("QueueService/ListPauses", {"rowcall-tenant": "acme"})
    its = [
        pause("ada", "no paper", queue="printing"),
        pause("", "", method="acme.v1.PrintService/Print"),
        pause("bob", "", tenant="acme"),
    ]
    others = [pause("eve", "", queue="mail"), pause("eve", "", method="acme.v1.PrintService/Fold")]
    call.answer(ListPausesResponse(pauses=[*its, *others]))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    [line] = [line for line in ran.out.splitlines() if line.startswith("paused")]
    since = f"since {time_text(its[0].info.pause_time)}"
    told = f"its queue, {since}, by ada: no paper; its method, {since}; its tenant, {since}, by bob"
    assert line.removeprefix("paused").strip() == told


def test_a_job_that_waits_is_shown_though_nobody_says_what_for(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "show", NAME)
    fake_gateway.take().answer(GetJobResponse(job=waiting()))
    fake_gateway.take().fail(grpc.StatusCode.UNAVAILABLE, "a shard is away")
    ran = command.result(SECONDS)
    assert (ran.code, ran.err) == (ExitCode.OK, "")
    assert "ready" in ran.out
    assert "paused" not in ran.out


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
