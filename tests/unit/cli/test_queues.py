"""`rowcall queues`, `methods`, `tenants`: the requests that are sent, and what is told when not every shard, or nobody,
answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.v1 import catalogue_service_pb2, queue_service_pb2, tenant_service_pb2
from rowcall.v1.queue_service_pb2 import Pause, PauseInfo, Queue, Unserved
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway

SINCE = Timestamp(seconds=1_935_668_400)
SINCE_TEXT = SINCE.ToDatetime(tzinfo=UTC).astimezone().isoformat(sep=" ", timespec="seconds")


SERVICES: Mapping[str, tuple[str, Any]] = {
    "queue": ("QueueService", queue_service_pb2),
    "method": ("CatalogueService", catalogue_service_pb2),
    "tenant": ("TenantService", tenant_service_pb2),
}
PAUSED = pytest.mark.parametrize(
    ("kind", "name", "sent"),
    [
        ("queue", "mail", "mail"),
        ("method", "a.v1.S/M", "a.v1.S/M"),
        ("tenant", "acme", "tenants/acme"),
        ("tenant", "tenants/acme", "tenants/acme"),
    ],
)


@PAUSED
def test_a_pause_says_what_by_whom_and_why(fake_gateway: FakeGateway, kind: str, name: str, sent: str) -> None:
    service, file = SERVICES[kind]
    command = fake_gateway.start(f"{kind}s", "pause", name, "--actor", "ann", "--note", "index")
    call = fake_gateway.take()
    assert (call.method, call.timeout) == (f"{service}/Pause{kind.title()}", 30)
    assert call.metadata == {"rowcall-tenant": "acme" if kind == "tenant" else "default", "rowcall-actor": "ann"}
    assert (call.request.name, call.request.note) == (sent, "index")
    call.answer(getattr(file, f"Pause{kind.title()}Response")())
    ran = command.result(SECONDS)
    shown = name.removeprefix("tenants/")
    assert (ran.code, ran.err) == (
        ExitCode.OK,
        f"The {kind} {shown} is paused. To go on: rowcall {kind}s resume {shown}\n",
    )


@PAUSED
def test_an_end_of_a_pause_says_of_what(fake_gateway: FakeGateway, kind: str, name: str, sent: str) -> None:
    service, file = SERVICES[kind]
    command = fake_gateway.start(f"{kind}s", "resume", name)
    call = fake_gateway.take()
    assert (call.method, call.timeout, call.request.name) == (f"{service}/Resume{kind.title()}", 30, sent)
    assert call.metadata == {"rowcall-tenant": "acme" if kind == "tenant" else "default"}
    call.answer(getattr(file, f"Resume{kind.title()}Response")())
    ran = command.result(SECONDS)
    shown = name.removeprefix("tenants/")
    assert (ran.code, ran.err) == (ExitCode.OK, f"The {kind} {shown} is not paused.\n")


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        (("queues", "pause", "mail"), "QueueService/PauseQueue"),
        (("queues", "resume", "mail"), "QueueService/ResumeQueue"),
        (("queues", "list"), "QueueService/ListQueues"),
        (("queues", "show", "mail"), "QueueService/GetQueue"),
        (("queues", "pauses"), "QueueService/ListPauses"),
        (("methods", "pause", "a.v1.S/M"), "CatalogueService/PauseMethod"),
        (("methods", "resume", "a.v1.S/M"), "CatalogueService/ResumeMethod"),
        (("tenants", "pause", "acme"), "TenantService/PauseTenant"),
        (("tenants", "resume", "acme"), "TenantService/ResumeTenant"),
        (("tenants", "weight", "acme", "3"), "TenantService/SetTenantWeight"),
    ],
)
def test_what_was_not_answered_in_time_is_not_told_as_done(
    fake_gateway: FakeGateway, arguments: tuple[str, ...], method: str
) -> None:
    command = fake_gateway.start(*arguments)
    call = fake_gateway.take()
    assert call.method == method
    fake_gateway.clock.sleep_for(29.9)
    assert not call.ended
    fake_gateway.clock.sleep_for(0.1)
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.UNREACHABLE, "")
    assert ran.err.startswith("rowcall: No gateway answered in time at 127.0.0.1:50051: Deadline Exceeded\n")
    assert "paused" not in ran.err
    assert "has the weight" not in ran.err


def test_pauses_are_shown_by_kind_and_name(fake_gateway: FakeGateway) -> None:
    info = PauseInfo(pause_time=SINCE, actor="ann", note="index")
    pauses = [
        Pause(queue="mail", info=info),
        Pause(method="a.v1.S/M", info=info, missing_shards=["a"]),
        Pause(tenant="tenants/acme", info=info),
    ]
    command = fake_gateway.start("queues", "pauses")
    fake_gateway.take().answer(queue_service_pb2.ListPausesResponse(pauses=pauses))
    _, *rows = command.result(SECONDS).out.splitlines()
    said = ("ann", "index")
    since = tuple(SINCE_TEXT.split())
    assert [tuple(row.split()) for row in rows if row.split()[:1] != ["─"]] == [
        ("queue", "mail", *since, *said),
        ("method", "a.v1.S/M", *since, *said, "a"),
        ("tenant", "acme", *since, *said),
    ]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("list",), queue_service_pb2.ListQueuesResponse(unreachable_shards=["a", "b"])),
        (("show", "mail"), queue_service_pb2.GetQueueResponse(unreachable_shards=["a", "b"])),
        (("pauses",), queue_service_pb2.ListPausesResponse(unreachable_shards=["a", "b"])),
    ],
)
def test_what_lacks_shards_is_shown_and_said_to_lack_them(
    fake_gateway: FakeGateway, arguments: tuple[str, ...], answer: object
) -> None:
    command = fake_gateway.start("queues", *arguments, "--json")
    fake_gateway.take().answer(answer)
    ran = command.result(SECONDS)
    assert (ran.code, ran.json["unreachable_shards"]) == (ExitCode.UNREACHABLE, ["a", "b"])
    assert ran.err == "rowcall: Not all of it: no answer from a, b.\n"


@pytest.mark.parametrize(
    ("queue", "told"),
    [
        (Queue(), "0"),
        (Queue(held=3, held_paused=3), "3 (3 paused)"),
        (
            Queue(held=4, held_paused=3, held_suspect=2, held_limited=1, capped=True),
            "4+ (3 paused, 2 suspect, 1 limited)",
        ),
        (Queue(held=2), "2"),
    ],
)
def test_held_jobs_are_told_by_their_reasons(fake_gateway: FakeGateway, queue: Queue, told: str) -> None:
    command = fake_gateway.start("queues", "show", "mail")
    fake_gateway.take().answer(queue_service_pb2.GetQueueResponse(queue=queue))
    [held] = [line for line in command.result(SECONDS).out.splitlines() if line.startswith("held")]
    assert held.removeprefix("held").strip() == told


def test_a_cancelled_call_is_told(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("tenants", "weight", "acme", "3")
    call = fake_gateway.take()
    assert (call.request.name, call.request.weight) == ("tenants/acme", 3)
    call.fail(grpc.StatusCode.CANCELLED, "by a proxy")
    ran = command.result(SECONDS)
    assert (ran.code, ran.out, ran.err) == (ExitCode.FAILED, "", "rowcall: CANCELLED: by a proxy\n")


@pytest.mark.parametrize(
    ("served", "told"),
    [
        (Queue(workers=1), "1 worker"),
        (Queue(workers=2, unserved_methods=["a.v1.S/M", "a.v1.S/N"]), "2 workers; nobody for a.v1.S/M, a.v1.S/N"),
        (Queue(unserved=Unserved(shards=["a"])), "nobody yet"),
        (
            Queue(unserved=Unserved(shards=["a", "b"], start_time=SINCE, worker="w-1")),
            f"nobody since {SINCE_TEXT}, when w-1 was gone",
        ),
        (
            Queue(workers=2, unserved=Unserved(shards=["b"], start_time=SINCE, worker="w-1")),
            f"2 workers; nobody on b since {SINCE_TEXT}, when w-1 was gone",
        ),
        (Queue(workers=2, unserved=Unserved(shards=["b"])), "2 workers; nobody on b"),
    ],
)
def test_a_queue_is_shown_with_who_serves_it(fake_gateway: FakeGateway, served: Queue, told: str) -> None:
    command = fake_gateway.start("queues", "show", "mail")
    fake_gateway.take().answer(queue_service_pb2.GetQueueResponse(queue=served))
    [line] = [line for line in command.result(SECONDS).out.splitlines() if line.startswith("served by")]
    assert line.removeprefix("served by").strip() == told
