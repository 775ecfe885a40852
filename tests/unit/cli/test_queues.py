"""`rowcall queues`: the requests that are sent, and what is told when not every shard, or nobody, answers."""

from __future__ import annotations

from datetime import UTC

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.v1 import queue_service_pb2
from rowcall.v1.queue_service_pb2 import PauseTarget, Queue, Unserved
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway

SINCE = Timestamp(seconds=1_935_668_400)
SINCE_TEXT = SINCE.ToDatetime(tzinfo=UTC).astimezone().isoformat(sep=" ", timespec="seconds")


@pytest.mark.parametrize(
    ("kind", "name", "target", "tenant"),
    [
        ("queue", "mail", PauseTarget(queue="mail"), "default"),
        ("method", "a.v1.S/M", PauseTarget(method="a.v1.S/M"), "default"),
        ("tenant", "acme", PauseTarget(tenant="acme"), "acme"),
    ],
)
def test_a_pause_says_what_by_whom_and_why(
    fake_gateway: FakeGateway, kind: str, name: str, target: PauseTarget, tenant: str
) -> None:
    command = fake_gateway.start("queues", "pause", kind, name, "--actor", "ann", "--note", "index")
    call = fake_gateway.take()
    assert (call.method, call.timeout) == ("QueueService/Pause", 30)
    assert call.metadata == {"rowcall-tenant": tenant, "rowcall-actor": "ann"}
    assert (call.request.target, call.request.note) == (target, "index")
    call.answer(queue_service_pb2.PauseResponse())
    ran = command.result(SECONDS)
    assert (ran.code, ran.err) == (
        ExitCode.OK,
        f"The {kind} {name} is paused. To go on: rowcall queues resume {kind} {name}\n",
    )


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        (("pause", "queue", "mail"), "Pause"),
        (("resume", "queue", "mail"), "Resume"),
        (("weight", "acme", "3"), "SetTenantWeight"),
        (("list",), "ListQueues"),
        (("show", "mail"), "GetQueue"),
        (("pauses",), "ListPauses"),
    ],
)
def test_what_was_not_answered_in_time_is_not_told_as_done(
    fake_gateway: FakeGateway, arguments: tuple[str, ...], method: str
) -> None:
    command = fake_gateway.start("queues", *arguments)
    call = fake_gateway.take()
    assert call.method == f"QueueService/{method}"
    fake_gateway.clock.sleep_for(29.9)
    assert not call.ended
    fake_gateway.clock.sleep_for(0.1)
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.UNREACHABLE, "")
    assert ran.err.startswith("rowcall: No gateway answered in time at 127.0.0.1:50051: Deadline Exceeded\n")
    assert "paused" not in ran.err
    assert "has the weight" not in ran.err


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
    assert ran.err == "rowcall: Not all is shown: these shards did not answer: a, b.\n"


def test_a_cancelled_call_is_told(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("queues", "weight", "acme", "3")
    call = fake_gateway.take()
    assert (call.request.tenant, call.request.weight) == ("acme", 3)
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
