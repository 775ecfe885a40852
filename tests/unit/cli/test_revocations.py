"""`rowcall revoke` and `rowcall revocations`: the requests that are sent, and what is told of the answers."""

from __future__ import annotations

import json
import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.v1.access_service_pb2 import ListRevocationsResponse, Revocation, RevokeCredentialsResponse
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway
from tests.fix_commands import Ran

ISSUER = "https://login.example.com"
BEFORE = Timestamp(seconds=1_935_668_400)


def revoked(subject: str = "ada", note: str = "") -> Revocation:
    return Revocation(issuer=ISSUER, subject=subject, before_time=BEFORE, create_time=BEFORE, actor="root", note=note)


def test_a_subjects_tokens_are_revoked_until_now(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(
        "revoke", "--issuer", ISSUER, "--subject", "ada", "--note", "left us", "--actor", "root"
    )
    call = fake_gateway.take()
    assert (call.method, call.timeout) == ("AccessService/RevokeCredentials", 30)
    assert call.metadata == {"rowcall-actor": "root"}, "it is of no tenant"
    assert (call.request.issuer, call.request.subject, call.request.note) == (ISSUER, "ada", "left us")
    assert not call.request.HasField("before_time")
    call.answer(RevokeCredentialsResponse(revocation=revoked()))
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.OK, "")
    assert ran.err.startswith(f"Tokens of ada from {ISSUER} that were issued before 2031-")


def test_everybodys_tokens_are_revoked_where_that_is_said(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("revoke", "--issuer", ISSUER, "--everybody", "--before", "1h", "--json")
    call = fake_gateway.take()
    assert call.request.subject == ""
    assert abs(call.request.before_time.seconds - (time.time() - 3600)) < 60
    call.answer(RevokeCredentialsResponse(revocation=revoked("")))
    ran = command.result(SECONDS)
    assert json.loads(ran.out)["issuer"] == ISSUER


@pytest.mark.parametrize("whose", [(), ("--subject", "ada", "--everybody")])
def test_whose_tokens_must_be_said(fake_gateway: FakeGateway, whose: tuple[str, ...]) -> None:
    """A subject that was forgotten must not become everybody."""
    ran: Ran = fake_gateway.start("revoke", "--issuer", ISSUER, *whose).result(SECONDS)
    assert ran.code == ExitCode.USAGE
    assert "--subject SUB, or --everybody" in ran.err


def test_all_that_was_revoked_is_listed_over_all_pages(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("revocations", "--issuer", ISSUER)
    call = fake_gateway.take()
    assert (call.method, call.request.issuer, call.request.page_token) == ("AccessService/ListRevocations", ISSUER, "")
    call.answer(ListRevocationsResponse(revocations=[revoked(note="left us")], next_page_token="more"))
    call = fake_gateway.take()
    assert call.request.page_token == "more"
    call.answer(ListRevocationsResponse(revocations=[revoked("")]))
    ran = command.result(SECONDS)
    head, first, second = ran.out.splitlines()
    assert head.split()[:2] == ["issuer", "subject"]
    assert [word for word in ("ada", "left us", "root") if word in first] == ["ada", "left us", "root"]
    assert "everybody" in second


def test_that_nothing_is_revoked_is_said(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("revocations")
    fake_gateway.take().answer(ListRevocationsResponse())
    ran = command.result(SECONDS)
    assert (ran.code, ran.out, ran.err) == (ExitCode.OK, "", "Nothing is revoked.\n")
