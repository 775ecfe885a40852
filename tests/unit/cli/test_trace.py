"""`rowcall trace` and `rowcall actions`: the requests that are sent, and what is told of the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code
from rich.cells import cell_len

from rowcall.v1.action_service_pb2 import (
    ActionCost,
    ActionGroup,
    ActionNode,
    ActionNodeKind,
    ActionSummary,
    GetActionRequest,
    GetActionResponse,
    ListActionsRequest,
    ListActionsResponse,
)
from rowcall.v1.job_pb2 import JobState
from rowcall_cli.errors import ExitCode
from rowcall_cli.waterfall import PLAIN, waterfall
from tests.fix_channel import SECONDS, FakeGateway

TRACE = "0af7651916cd43dd8448eb211c80319c"
ID = "0196a4c5-7a2e-7c3f-9e1b-3f0f5c9d2b11"
OPERATION = f"tenants/acme/operations/{ID}"
BEGAN = datetime(2031, 5, 4, 13, 30, tzinfo=UTC)


def at(seconds: float = 0) -> Timestamp:
    """A time so long after the beginning."""
    made = Timestamp()
    made.FromDatetime(BEGAN + timedelta(seconds=seconds))
    return made


def took(seconds: float) -> Duration:
    made = Duration()
    made.FromTimedelta(timedelta(seconds=seconds))
    return made


def node(
    id_: str, kind: str, name: str, start: float, seconds: float | None, *, below: str = "", status: str = "",
    code: Code.ValueType = Code.OK, message: str = "", attributes: Mapping[str, str] | None = None,
) -> ActionNode:  # fmt: skip
    return ActionNode(
        id=id_,
        parent_id=below,
        kind=ActionNodeKind.Value(f"ACTION_NODE_KIND_{kind}"),
        name=name,
        start_time=at(start),
        status=status,
        code=code,
        message=message,
        attributes=attributes,
        duration=None if seconds is None else took(seconds),
    )


def action() -> GetActionResponse:
    """A job of ten seconds that waited for two, failed once in four, and submitted many."""
    return GetActionResponse(
        tenant="tenants/acme",
        trace_id=TRACE,
        start_time=at(),
        duration=took(10),
        nodes=[
            node(OPERATION, "JOB", "acme.v1.Shop/Order", 0, 10, status="SUCCEEDED"),
            node("w", "WAIT", "attempt 1", 0, 2, below=OPERATION, status="TURN"),
            node(
                "a", "ATTEMPT", "w-1", 2, 4, below=OPERATION, status="RETRIED", code=Code.UNAVAILABLE, message="Not\nyet.",
                attributes={"rowcall.attempt": "1"},
            ),
            node(
                "m", "MODEL_CALL", "oracle gpt-7", 3, 0.025, below="a",
                attributes={
                    "gen_ai.usage.input_tokens": "100", "rowcall.cost.amount": "0.25", "rowcall.cost.currency": "EUR",
                },
            ),
            node("b", "ATTEMPT", "w-1", 6, 4, below=OPERATION, status="SUCCEEDED", attributes={"rowcall.attempt": "2"}),
            node(
                "o", "OPERATOR", "job.retry", 5, 0, below=OPERATION, status="DONE", message="again",
                attributes={"rowcall.actor": "olga"},
            ),
        ],
        groups=[
            ActionGroup(
                parent_id="b",
                method="acme.v1.Shop/Pack",
                state=JobState.JOB_STATE_SUCCEEDED,
                jobs=60,
                descendants=3,
                start_time=at(7),
                end_time=at(9),
                longest=took(2),
            )
        ],
        jobs=64,
        costs=[ActionCost(currency="EUR", calls=1, input_tokens=100, cost="0.25"), ActionCost(calls=2)],
    )  # fmt: skip


def test_an_action_is_shown_as_a_waterfall(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("trace", TRACE, "--tenant", "acme")
    call = fake_gateway.take()
    assert (call.method, call.metadata) == ("ActionService/GetAction", {"rowcall-tenant": "acme"})
    assert call.request == GetActionRequest(trace_id=TRACE)
    call.answer(action())
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    for text in ("0.25 EUR (1 call, 100 tokens in, 0 out); not known (2 calls)", "10.0 s", "64"):
        assert text in ran.out
    told = [" ".join(line.split()) for line in ran.out.splitlines()]
    for text in (
        "UNAVAILABLE, Not yet.",
        "25 ms 100 tokens in, 0 out, 0.25 EUR",
        "olga, again",
        "3 below them, longest 2.0 s",
    ):
        assert any(line.endswith(text) for line in told), text


def test_bars_lie_where_things_happened() -> None:
    lines = [line.plain for line in waterfall(action(), 100, glyphs=PLAIN)]
    labels = [line[:30].rstrip() for line in lines]
    assert labels[:4] == [
        "Shop/Order SUCCEEDED",
        "|- attempt 1 RETRIED",
        "|  `- oracle gpt-7",
        "|- attempt 2 SUCCEEDED",
    ]
    assert [label.startswith("|  `- 60 more Shop") for label in labels].index(True) == 4
    assert len(lines) == 6, "a wait that is over has no line of its own"
    first = lines[0]
    at = min(place for place in (first.find("-"), first.find("#")) if place > 0)
    assert first[at : at + 35] == "-" * 7 + "#" * 28, "it waited for two seconds of ten"
    assert lines[1][at : at + 35].strip() == "#" * 15
    assert lines[5][at + 17] == "*"
    assert all(cell_len(line) <= 100 for line in lines)


def test_what_goes_on_is_drawn_until_now() -> None:
    job = node(OPERATION, "JOB", "acme.v1.Shop/Order", 0, None, status="READY")
    wait = node("w", "WAIT", "attempt 1", 0, None, below=OPERATION, status="METHOD_NOT_SERVED", message="No worker.")
    lines = waterfall(GetActionResponse(nodes=[job, wait]), 100, glyphs=PLAIN, now=BEGAN + timedelta(seconds=3))
    assert [" ".join(line.plain.replace("-", "").split()) for line in lines] == [
        "Shop/Order READY 3.0 s+",
        "` waits: METHOD_NOT_SERVED 3.0 s+ No worker.",
    ]


def test_it_is_whole_for_scripts(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("trace", OPERATION, "--json")
    call = fake_gateway.take()
    assert (call.request, call.metadata) == (GetActionRequest(operation=OPERATION), {"rowcall-tenant": "acme"})
    answer = action()
    answer.partial = True
    call.answer(answer)
    ran = command.result(SECONDS)
    found = json.loads(ran.out)
    assert [each["id"] for each in found["nodes"]] == [OPERATION, "w", "a", "m", "b", "o"]
    assert found["nodes"][2]["kind"] == "ACTION_NODE_KIND_ATTEMPT"
    assert "There is more than this" in ran.err


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        (TRACE.upper(), GetActionRequest(trace_id=TRACE)),
        (f"00-{TRACE}-b7ad6b7169203331-01", GetActionRequest(trace_id=TRACE)),
        (ID.upper(), GetActionRequest(operation=OPERATION)),
    ],
)
def test_names_are_taken_as_logs_have_them(fake_gateway: FakeGateway, name: str, request_: GetActionRequest) -> None:
    command = fake_gateway.start("trace", name, "--tenant", "acme")
    call = fake_gateway.take()
    assert call.request == request_
    call.answer(GetActionResponse())
    assert command.result(SECONDS).code == ExitCode.OK


@pytest.mark.parametrize("name", ["seven", TRACE[1:], "tenants/acme/operations/seven", ""])
def test_what_is_no_name_is_said_before_anybody_is_called(fake_gateway: FakeGateway, name: str) -> None:
    ran = fake_gateway.start("trace", name).result(SECONDS)
    assert ran.code == ExitCode.USAGE
    assert "is neither a trace (32 hex digits, or a whole traceparent) nor an operation" in ran.err


def test_actions_are_listed_over_pages(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(
        "actions", "--tenant", "acme", "--state", "failed", "--min-duration", "30s", "--min-cost", "0.50:EUR", "--method",
        "a.B/C", "--limit", "2",
    )  # fmt: skip
    call = fake_gateway.take()
    wanted = ListActionsRequest(
        states=[JobState.JOB_STATE_FAILED],
        method="a.B/C",
        min_duration=took(30),
        min_cost="0.50",
        currency="EUR",
        page_size=2,
    )
    assert (call.method, call.request) == ("ActionService/ListActions", wanted)
    one = ActionSummary(
        operation=OPERATION,
        trace_id=TRACE,
        method="a.B/C",
        state=JobState.JOB_STATE_FAILED,
        code=Code.NOT_FOUND,
        start_time=at(),
        duration=took(31),
        attempts=3,
        costs=[ActionCost(currency="EUR", cost="0.75")],
    )
    call.answer(ListActionsResponse(actions=[one], next_page_token="more"))
    call = fake_gateway.take()
    assert (call.request.page_token, call.request.page_size) == ("more", 1)
    call.answer(ListActionsResponse(actions=[one], next_page_token="yet more"))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    for text in (OPERATION, TRACE, "FAILED (NOT_FOUND)", "31.0 s", "0.75 EUR"):
        assert text in ran.out
    assert "There are more" in ran.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--min-cost", "much"), "--min-cost 'much' is no amount of money: write 0.50:EUR"),
        (("--min-duration", "long"), "is no span of time"),
        (("--since", "then"), "--since"),
        (("--state", "lost"), "lost"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(
    fake_gateway: FakeGateway, arguments: tuple[str, ...], told: str
) -> None:
    ran = fake_gateway.start("actions", *arguments).result(SECONDS)
    assert ran.code == ExitCode.USAGE
    assert told in ran.err
