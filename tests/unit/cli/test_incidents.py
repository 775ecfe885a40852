"""`rowcall errors`: the requests that are sent, and what is told of the answers."""

from __future__ import annotations

import json

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code

from rowcall.v1.error_service_pb2 import (
    GetIncidentResponse,
    Incident,
    IncidentState,
    ListIncidentsResponse,
    ResolveIncidentResponse,
)
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway

AT = Timestamp(seconds=1_935_668_400)
ONE = "1" * 32
OPEN, REGRESSED = IncidentState.INCIDENT_STATE_OPEN, IncidentState.INCIDENT_STATE_REGRESSED
INCIDENT = Incident(
    fingerprint=ONE,
    state=REGRESSED,
    service="worker",
    method="a.B/C",
    code=Code.INTERNAL,
    kind="ValueError",
    location="acme.mail:handle:7",
    count=12,
    first_time=AT,
    last_time=AT,
    trace_id="0" * 31 + "1",
    first_version="0.1",
    last_version="0.2",
    resolve_time=AT,
    actor="ann",
    note="fixed",
    regressions=2,
)


def test_what_is_not_resolved_is_listed(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("errors", "list")
    call = fake_gateway.take()
    assert (call.method, list(call.request.states), call.metadata) == (
        "ErrorService/ListIncidents",
        [OPEN, REGRESSED],
        {},
    )
    call.answer(ListIncidentsResponse(incidents=[INCIDENT]))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    for text in (ONE, "regressed", "12", "a.B/C", "INTERNAL", "ValueError"):
        assert text in ran.out


def test_all_are_listed_where_that_is_asked(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("errors", "list", "--all", "--json")
    call = fake_gateway.take()
    assert list(call.request.states) == []
    call.answer(ListIncidentsResponse(incidents=[INCIDENT], unreachable_shards=["b"]))
    ran = command.result(SECONDS)
    assert json.loads(ran.out)["incidents"][0]["fingerprint"] == ONE
    assert ran.code == ExitCode.UNREACHABLE


def test_that_nothing_is_open_is_said(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("errors", "list")
    fake_gateway.take().answer(ListIncidentsResponse())
    assert "Nothing is open." in command.result(SECONDS).err


def test_one_is_shown_with_everything(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("errors", "show", ONE)
    call = fake_gateway.take()
    assert (call.method, call.request.fingerprint) == ("ErrorService/GetIncident", ONE)
    call.answer(GetIncidentResponse(incident=INCIDENT))
    ran = command.result(SECONDS)
    for text in ("acme.mail:handle:7", "version 0.1", "version 0.2", "ann", "fixed", "0" * 31 + "1"):
        assert text in ran.out


def test_one_is_resolved_with_a_note(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("errors", "resolve", ONE, "--note", "fixed", "--actor", "ann")
    call = fake_gateway.take()
    assert (call.method, call.request.fingerprint, call.request.note) == ("ErrorService/ResolveIncident", ONE, "fixed")
    assert call.metadata == {"rowcall-actor": "ann"}
    call.answer(ResolveIncidentResponse(incident=INCIDENT))
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.OK, "")
    assert f"{ONE} is resolved." in ran.err
