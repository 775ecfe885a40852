"""`rowcall top` and `rowcall versions`: the requests that are sent, and what is told of the answers."""

from __future__ import annotations

import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.v1.catalogue_service_pb2 import Gateway, Image, ListGatewaysResponse, ListImagesResponse
from rowcall.v1.error_service_pb2 import Incident, IncidentState, ListIncidentsResponse
from rowcall.v1.job_pb2 import JobCounts, JobRates
from rowcall.v1.queue_service_pb2 import ListQueueActivityResponse, QueueActivity
from rowcall.v1.worker_service_pb2 import ListWorkersResponse, Worker, WorkerState
from rowcall_cli import top
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway

AT = Timestamp(seconds=1_935_667_800)


def activity(*queues: QueueActivity, seconds: int = 10, missing: tuple[str, ...] = ()) -> ListQueueActivityResponse:
    made = ListQueueActivityResponse(queues=queues, read_time=AT, unreachable_shards=missing)
    if seconds:
        made.measured_over.FromSeconds(seconds)
    return made


MAIL = QueueActivity(
    name="mail",
    waiting=3,
    running=2,
    today=JobCounts(accepted=30, succeeded=20, answered_in_time=15, answered_still_running=4),
    rates=JobRates(accepted=2.5, dead=0.2, answered_in_time=1.5, answered_joined=0.3),
)
PRINT = QueueActivity(name="print", paused=True, waiting=40, today=JobCounts(accepted=40), rates=JobRates(accepted=12))
PRINT.oldest_age.FromSeconds(600)
STEADY = Worker(
    name="one",
    state=WorkerState.WORKER_STATE_STEADY,
    slots=200,
    slots_taken=2,
    threads=16,
    release="0.1.0",
    start_time=AT,
)
STUCK = Worker(name="two", state=WorkerState.WORKER_STATE_SUSPECTED, slots=200, threads=16, version="v8", start_time=AT)


def answer(fake_gateway: FakeGateway, told: ListQueueActivityResponse) -> None:
    call = fake_gateway.take()
    assert call.method == "QueueService/ListQueueActivity"
    assert call.metadata == {}, "it is of no tenant"
    call.answer(told)
    call = fake_gateway.take()
    assert call.method == "WorkerService/ListWorkers"
    call.answer(ListWorkersResponse(workers=[STEADY, STUCK], unreachable_shards=["b"]))
    call = fake_gateway.take()
    assert call.method == "ErrorService/ListIncidents"
    assert list(call.request.states) == [IncidentState.INCIDENT_STATE_OPEN, IncidentState.INCIDENT_STATE_REGRESSED]
    call.answer(
        ListIncidentsResponse(incidents=[Incident(fingerprint="f" * 32, count=7, kind="KeyError", last_time=AT)])
    )


def test_it_is_told_once_with_what_is_missing(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("top", "--once")
    answer(fake_gateway, activity(MAIL, PRINT, missing=("a",)))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.UNREACHABLE
    assert "no answer from a, b" in ran.err
    lines = ran.out.splitlines()
    assert "1 steady, 1 suspected, slots 2 of 400, threads 0 of 32" in lines[0]
    assert "14 accepted" in lines[1]
    assert "over 10 s" in lines[1]
    assert "70 accepted" in lines[2]
    assert "20 succeeded" in lines[2]
    assert "1.5 in time, 0.3 joined, 0 operation, 0 still running, 0 failed" in lines[3]
    assert "15 in time, 0 joined, 0 operation, 4 still running, 0 failed" in lines[4]
    table = next(place for place, line in enumerate(lines) if line.startswith("queue"))
    assert lines[table + 1].split() == ["print", "(paused)", "40", "10", "min", "0", "12", "0", "0", "0", "0", "0"]
    assert lines[table + 2].split() == ["mail", "3", "2", "2.5", "0", "0", "0", "0.2", "20"]
    assert lines[-1].split()[:2] == ["f" * 32, "7"]


def test_for_scripts_counts_are_numbers(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("top", "--once", "--json")
    answer(fake_gateway, activity(MAIL, PRINT))
    ran = command.result(SECONDS)
    found = json.loads(ran.out)
    assert (found["measured_over_seconds"], found["rates"]["accepted"], found["today"]["accepted"]) == (10, 14.5, 70)
    assert (found["rates"]["answered_joined"], found["today"]["answered_still_running"]) == (0.3, 4)
    mail, printed = found["queues"]
    assert (mail["waiting"], mail["oldest_age_seconds"], mail["rates"]["accepted"]) == (3, None, 2.5)
    assert (printed["paused"], printed["oldest_age_seconds"]) == (True, 600)
    assert found["unreachable_shards"] == ["b"]
    assert [each["slots_taken"] for each in found["workers"]] == [2, 0]
    assert found["errors"][0]["kind"] == "KeyError"


def test_without_rates_it_looks_again(fake_gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "EVERY", 0.01)
    command = fake_gateway.start("top", "--once", "--json")
    answer(fake_gateway, activity(MAIL, seconds=0))
    answer(fake_gateway, activity(MAIL, seconds=2))
    assert json.loads(command.result(SECONDS).out)["measured_over_seconds"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"), [((), "stdout is no terminal: add --once"), (("--json",), "add --once")]
)
def test_what_it_cannot_do_it_says(fake_gateway: FakeGateway, arguments: tuple[str, ...], said: str) -> None:
    ran = fake_gateway.start("top", *arguments).result(SECONDS)
    assert (ran.code, said in ran.err) == (ExitCode.USAGE, True)
    assert fake_gateway.next_call() is None


def test_versions_are_told_the_latest_first(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("versions", "--tenant", "acme")
    later = Timestamp(seconds=AT.seconds + 60)
    call = fake_gateway.take()
    assert (call.method, call.metadata) == ("CatalogueService/ListGateways", {"rowcall-tenant": "acme"})
    gateways = [
        Gateway(name="g1", version="v8", release="0.1.0", start_time=later, current=False),
        Gateway(name="g2", version="v8", release="0.1.0", start_time=AT, current=True),
    ]
    call.answer(ListGatewaysResponse(gateways=gateways))
    call = fake_gateway.take()
    assert (call.method, call.request.page_size) == ("CatalogueService/ListImages", 5)
    call.answer(ListImagesResponse(images=[Image(name="shop", revision=3, publish_time=AT, actor="ada")]))
    fake_gateway.take().answer(ListWorkersResponse(workers=[STEADY, STUCK]))
    ran = command.result(SECONDS)
    lines = [line.split() for line in ran.out.splitlines()]
    assert ran.code == ExitCode.OK
    assert lines[1][:4] == ["gateway", "v8", "0.1.0", "2"]
    assert "1 do not serve what was published last" in ran.out
    assert sorted(line[0] for line in lines[2:4]) == ["worker", "worker"]
    assert lines[5][:2] == ["shop", "3"]
