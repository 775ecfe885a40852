"""`rowcall jobs`, `rowcall submit` and `rowcall probe` against a running system."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.probe.v1 import probe_pb2
from rowcall.v1 import job_service_pb2, job_service_pb2_grpc
from tests.fix_commands import Ran
from tests.fix_dev import CHANNEL_OPTIONS, Dev
from tests.support.ports import free_port

ECHO = "rowcall.probe.v1.ProbeService/Echo"
RUN = "rowcall.probe.v1.ProbeService/Run"
TENANT = "cli"

Command = Callable[..., Ran]


@pytest.fixture
def command(rowcall: Callable[..., Ran], standing_dev: Dev) -> Command:
    """Runs `rowcall ARGUMENTS` for a tenant of these tests, told of the gateway as a person would be: by environment."""

    def run(*arguments: str, **variables: str) -> Ran:
        return rowcall(*arguments, **{"ROWCALL_ADDRESS": standing_dev.address, "ROWCALL_TENANT": TENANT, **variables})

    return run


def schedule(address: str) -> str:
    """Submits a job that waits for tomorrow; returns its name."""
    packed = Any()
    packed.Pack(probe_pb2.RunRequest(payload=b"tomorrow"))
    tomorrow = Timestamp()
    tomorrow.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    spec = job_service_pb2.JobSpec(method=RUN, request=packed, run_time=tomorrow, labels={"team": "clocks"})
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        request = job_service_pb2.SubmitRequest(job=spec)
        return stub.Submit(request, timeout=20, metadata=(("rowcall-tenant", TENANT),)).operation.name


def test_a_submitted_job_is_waited_for_and_joined_by_its_key(command: Command) -> None:
    request = json.dumps({"payload": "aGVsbG8="})

    first = command("submit", ECHO, "--json", request, "--key", "once", "--wait", "20")
    again = command("submit", ECHO, "--json", "-", "--key", "once", "--wait", "20", stdin=request)

    assert (first.code, again.code) == (0, 0), first.err + again.err
    assert first.json["name"].startswith(f"tenants/{TENANT}/operations/")
    assert first.json["response"]["@type"] == "type.googleapis.com/rowcall.probe.v1.EchoResponse"
    assert first.json["response"]["payload"] == "aGVsbG8="
    assert first.json["joined"] is False
    assert again.json == {**first.json, "joined": True}


def test_without_a_wait_the_operation_is_returned_as_it_stands(command: Command) -> None:
    ran = command("submit", RUN, "--json", '{"work": "0.2s"}')

    assert ran.code == 0, ran.err
    assert (ran.json["done"], "response" in ran.json) == (False, False)


def test_a_job_is_submitted_with_labels_for_later_and_in_another_lane(command: Command) -> None:
    flags = ("--label", "team=clocks", "--label", "floor=3", "--run-at", "1d", "--priority", "urgent")

    ran = command("submit", RUN, *flags)

    assert ran.code == 0, ran.err
    shown = command("jobs", "show", ran.json["name"], "--json").json
    assert (shown["state"], shown["priority"]) == ("JOB_STATE_SCHEDULED", "PRIORITY_URGENT")
    assert shown["labels"] == {"team": "clocks", "floor": "3"}
    ahead = datetime.fromisoformat(shown["run_time"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=55) < ahead <= timedelta(days=1)
    assert ran.json["name"] in command("jobs", "list", "--label", "floor=3").out


def test_a_job_that_outlasts_the_wait_has_an_exit_code_of_its_own(command: Command) -> None:
    ran = command("submit", RUN, "--json", '{"work": "4s"}', "--wait", "1")

    assert ran.code == 4
    assert f"rowcall jobs show {ran.json['name']}" in ran.err


def test_a_job_that_fails_is_told_with_its_reason(command: Command) -> None:
    ran = command("submit", RUN, "--json", '{"failCode": "FAILED_PRECONDITION"}', "--wait", "20")

    assert ran.code == 1
    assert ran.json["done"] is True
    assert "FAILED_PRECONDITION" in ran.json["error"]
    assert "The job failed: HANDLER_ERROR: " in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((RUN, "--json", '{"wrok": "1s"}'), 2, "--json is no rowcall.probe.v1.RunRequest"),
        ((RUN, "--json", "{"), 2, "--json is no rowcall.probe.v1.RunRequest"),
        ((RUN, "--json", '{"payload": "a!b@"}'), 2, "payload holds bytes and is not base64.\n"),
        ((RUN, "--json", '{"work": "4"}'), 2, "at RunRequest.work.\n"),
        ((RUN, "--json", '{"work": "-1s", "failAttempts": -1}'), 1, "work: "),
        (("rowcall.probe.v1.ProbeService/Eco",), 1, "does not describe rowcall.probe.v1.ProbeService/Eco"),
        (("nobody.v1.Knows/This",), 1, "does not describe nobody.v1.Knows/This"),
        ((RUN, "--wait", "-1"), 2, "--wait"),
        ((RUN, "--label", "Team=clocks"), 1, "labels"),
    ],
)
def test_a_request_that_is_wrong_is_refused_with_what_is_wrong(
    command: Command, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ran = command("submit", *arguments)

    assert ran.code == code, ran.err
    assert message in ran.err
    assert ".." not in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_all_violations_are_told_at_once(command: Command) -> None:
    ran = command("submit", RUN, "--json", '{"work": "-1s", "failAttempts": -1}')

    assert "INVALID_REQUEST" in ran.err
    assert "fail_attempts: " in ran.err
    assert "trace_id: " in ran.err


def test_a_job_is_shown_with_its_attempts(command: Command) -> None:
    request = json.dumps({"payload": "aGVsbG8=", "failCode": "UNAVAILABLE", "failAttempts": 1})
    name = command("submit", RUN, "--json", request, "--key", "retried", "--wait", "30").json["name"]

    shown = command("jobs", "show", name)
    assert shown.code == 0, shown.err
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["state", "succeeded"] in lines
    assert ["attempt", "2", "of", "5"] in lines
    assert ["key", "retried"] in lines
    assert [line[:2] for line in lines if line[:1] in (["1"], ["2"])] == [["1", "retried"], ["2", "succeeded"]]
    assert "payload" not in shown.out

    full = command("jobs", "show", name, "--full", "--json").json
    assert full["state"] == "JOB_STATE_SUCCEEDED"
    assert full["request"]["payload"] == full["response"]["payload"] == "aGVsbG8="
    assert full["request"]["failCode"] == "UNAVAILABLE"
    assert '"payload": "aGVsbG8="' in command("jobs", "show", name, "--full").out


def test_a_waiting_job_is_cancelled_once(command: Command, standing_dev: Dev) -> None:
    name = schedule(standing_dev.address)
    waiting = command("jobs", "show", name, "--json").json
    assert (waiting["state"], waiting["labels"]) == ("JOB_STATE_SCHEDULED", {"team": "clocks"})

    cancelled = command("jobs", "cancel", name, "--json")
    assert cancelled.code == 0, cancelled.err
    assert cancelled.json["state"] == "JOB_STATE_CANCELLED"
    assert f"{name} is cancelled." in cancelled.err
    assert "cancelled" in command("jobs", "show", name).out


def test_a_running_job_is_marked_and_a_finished_one_is_left(command: Command) -> None:
    # Longer than a busy machine needs for a command: being marked ends it.
    running = command("submit", RUN, "--json", '{"work": "60s"}', "--wait", "1").json["name"]
    marked = command("jobs", "cancel", running)
    assert marked.code == 0, marked.err
    assert "it is marked" in marked.err

    finished = command("submit", ECHO, "--wait", "20").json["name"]
    left = command("jobs", "cancel", finished)
    assert left.code == 1
    assert "was succeeded already" in left.err


def test_another_tenants_job_and_a_wrong_name_are_told_apart(command: Command) -> None:
    name = command("submit", ECHO, "--wait", "20").json["name"]

    foreign = command("jobs", "show", name, "--tenant", "somebody-else")
    assert foreign.code == 1
    assert "NOT_FOUND" in foreign.err

    wrong = command("jobs", "show", "operations/1")
    assert wrong.code == 2
    assert "is not a job's name" in wrong.err


def test_the_tenant_is_taken_from_the_name_where_none_is_said(rowcall: Command, standing_dev: Dev) -> None:
    submitted = rowcall("submit", ECHO, "--tenant", "from-the-name", "--address", standing_dev.address)

    assert rowcall("jobs", "show", submitted.json["name"], "--address", standing_dev.address).code == 0


def test_a_job_is_found_by_its_id_alone(command: Command) -> None:
    name = command("submit", ECHO, "--wait", "20").json["name"]

    assert command("jobs", "show", name.rpartition("/")[2], "--json").json["name"] == name
    elsewhere = command("jobs", "show", name.rpartition("/")[2], "--tenant", "somebody-else")
    assert elsewhere.code == 1
    assert "operation: tenants/somebody-else/operations/" in elsewhere.err


def test_canaries_go_through_and_are_measured(command: Command) -> None:
    ran = command("probe", "--count", "5", "--json")

    assert ran.code == 0, ran.err
    figures = ran.json["milliseconds"]
    assert (ran.json["calls"], ran.json["failed"], len(ran.json["workers"])) == (5, 0, 1)
    assert 0 < figures["p50"] <= figures["p99"] <= figures["max"]
    assert "answered  2 of 2" in command("probe", "--count", "2").out


@pytest.mark.parametrize("arguments", [("probe", "--timeout", "2"), ("submit", ECHO)])
def test_no_gateway_is_an_exit_code_of_its_own(rowcall: Command, arguments: tuple[str, ...]) -> None:
    address = f"127.0.0.1:{free_port()}"

    ran = rowcall(*arguments, "--address", address)

    assert ran.code == 3, ran.err
    assert f"No gateway answers at {address}" in ran.err
    assert "Traceback" not in ran.err


def test_every_command_has_help_with_an_example(rowcall: Command) -> None:
    for words in (("migrate",), ("submit",), ("probe",), ("jobs", "show"), ("jobs", "cancel"), ("dev",), ("demo",)):
        ran = rowcall(*words, "--help")
        assert ran.code == 0
        assert f"Example:\n    rowcall {' '.join(words)}" in ran.out
