"""`rowcall workers`: the requests that are sent, and what is told of the answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rowcall.v1.worker_service_pb2 import (
    GetWorkerResponse,
    ListWorkersResponse,
    RunningJob,
    Worker,
    WorkerRegistration,
    WorkerState,
)
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway

STEADY, SUSPECTED = WorkerState.WORKER_STATE_STEADY, WorkerState.WORKER_STATE_SUSPECTED
JOB = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"


def worker(name: str, **more: Any) -> Worker:
    made = Worker(name=name, state=STEADY, slots=200, threads=16, every_queue=True, release="0.1.0", **more)
    made.start_time.FromJsonString("2031-05-04T13:30:00Z")
    return made


def test_workers_are_asked_for_page_by_page_and_told_a_line_each(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("workers", "list", "--tenant", "acme")
    call = fake_gateway.take()
    assert (call.method, call.request.page_size) == ("WorkerService/ListWorkers", 1000)
    assert call.metadata == {"rowcall-tenant": "acme"}
    call.answer(ListWorkersResponse(workers=[worker("one", version="v7", slots_taken=3)], next_page_token="more"))
    call = fake_gateway.take()
    assert call.request.page_token == "more"
    other = Worker(
        name="other",
        state=SUSPECTED,
        queues=["mail", "print"],
        methods=["a.B/C"],
        registrations=[WorkerRegistration(shard="b"), WorkerRegistration(shard="a"), WorkerRegistration(shard="a")],
    )
    apart = worker("apart", suspects_only=True)
    call.answer(ListWorkersResponse(workers=[other, apart], unreachable_shards=["c"]))
    ran = command.result(SECONDS)
    lines = ran.out.splitlines()
    assert lines[0].split() == [
        "worker",
        "state",
        "since",
        "version",
        "release",
        "slots",
        "threads",
        "shards",
        "queues",
        "methods",
    ]
    assert lines[1].split()[-10:] == ["v7", "0.1.0", "3", "of", "200", "0", "of", "16", "all", "0"]
    assert lines[2].startswith("other   suspected")
    assert "a, b" in lines[2]
    assert "mail, print" in lines[2]
    assert "suspects only" in lines[3]
    assert (ran.code, "no answer from c" in ran.err) == (ExitCode.UNREACHABLE, True)


def test_for_scripts_nothing_is_left_out(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("workers", "list", "--json")
    fake_gateway.take().answer(ListWorkersResponse(workers=[worker("one")]))
    ran = command.result(SECONDS)
    found = json.loads(ran.out)
    assert ran.code == ExitCode.OK
    assert found["unreachable_shards"] == []
    [one] = found["workers"]
    assert (one["slots_taken"], one["state"], one["methods"]) == (0, "WORKER_STATE_STEADY", [])


def test_where_no_worker_lives_it_is_said(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("workers", "list")
    fake_gateway.take().answer(ListWorkersResponse())
    ran = command.result(SECONDS)
    assert (ran.code, ran.out, "No worker lives" in ran.err) == (ExitCode.OK, "", True)


def test_one_is_shown_with_what_it_runs(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("workers", "show", "one", "--tenant", "acme")
    call = fake_gateway.take()
    assert (call.method, call.request.name) == ("WorkerService/GetWorker", "one")
    assert call.metadata == {"rowcall-tenant": "acme"}
    job = RunningJob(name=JOB, method="a.B/C", queue="mail", attempt=2)
    shown = worker(
        "one",
        methods=["a.B/C", "a.B/D"],
        jobs=[job],
        registrations=[WorkerRegistration(shard="a", state=STEADY, running=1)],
    )
    call.answer(GetWorkerResponse(worker=shown))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("method ")] == ["a.B/C", "a.B/D"]
    assert "a: steady" in ran.out
    assert "runs 1" in ran.out
    assert ran.out.splitlines()[-1].split()[:4] == [JOB, "a.B/C", "mail", "2"]


@pytest.mark.parametrize("command", ["list", "show"])
def test_help_has_an_example(fake_gateway: FakeGateway, command: str) -> None:
    ran = fake_gateway.start("workers", command, "--help").result(SECONDS)
    assert f"rowcall workers {command}" in ran.out.split("Example:")[1]
