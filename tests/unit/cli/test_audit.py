"""`rowcall audit`: the requests that are sent, what is told of the answers, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from rowcall.v1.audit_service_pb2 import (
    AuditEntry,
    AuditFault,
    AuditFaultKind,
    AuditHead,
    AuditPlace,
    ListAuditEntriesResponse,
    ListAuditHeadsResponse,
    VerifyAuditChainResponse,
)
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway

AT = Timestamp(seconds=1_935_668_400)
HASH, OTHER = "a" * 64, "b" * 64
HEAD = AuditHead(chain="tenants/acme", database="a", place=7, hash=HASH, seal_time=AT)


def entry(place: int = 1) -> AuditEntry:
    return AuditEntry(
        chain="tenants/acme",
        database="a",
        place=place,
        create_time=AT,
        actor="ann",
        roles=["operator"],
        action="job.cancel",
        target="tenants/acme/operations/1",
        before='{"state": "READY"}',
        reason="drill",
    )


def test_entries_are_asked_for_page_by_page_up_to_the_limit(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start(
        "audit", "list", "--tenant", "acme", "--by", "ann", "--action", "job", "--limit", "1500"
    )
    call = fake_gateway.take()
    assert (call.method, call.request.chain) == ("AuditService/ListAuditEntries", "tenants/acme")
    assert (call.request.actor, call.request.action, call.request.page_size) == ("ann", "job", 1000)
    assert call.metadata == {"rowcall-tenant": "acme"}
    call.answer(ListAuditEntriesResponse(entries=[entry()] * 1000, next_page_token="more"))
    call = fake_gateway.take()
    assert (call.request.page_token, call.request.page_size) == ("more", 500)
    call.answer(ListAuditEntriesResponse(entries=[entry()]))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    assert ran.out.count("job.cancel") == 1001
    assert "ann (operator)" in ran.out
    assert "drill" in ran.out


def test_the_systems_entries_are_asked_for_without_a_tenant(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("audit", "list", "--system", "--json")
    call = fake_gateway.take()
    assert (call.request.chain, call.metadata) == ("system", {})
    call.answer(ListAuditEntriesResponse(entries=[entry()], unreachable_databases=["b"]))
    ran = command.result(SECONDS)
    assert json.loads(ran.out)["entries"][0]["action"] == "job.cancel"
    assert ran.code == ExitCode.UNREACHABLE
    assert "no answer from b" in ran.err


def test_a_head_is_told_as_it_can_be_kept(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("audit", "head", "--tenant", "acme", "--json")
    call = fake_gateway.take()
    assert (call.method, call.request.chain) == ("AuditService/ListAuditHeads", "tenants/acme")
    call.answer(ListAuditHeadsResponse(heads=[HEAD]))
    [head] = json.loads(command.result(SECONDS).out)["heads"]
    assert (head["chain"], head["database"], head["place"], head["hash"]) == ("tenants/acme", "a", "7", HASH)


def test_a_chain_is_verified_against_heads_that_were_kept(fake_gateway: FakeGateway, tmp_path: Path) -> None:
    kept = tmp_path / "heads.json"
    ours = {"chain": "tenants/acme", "database": "a", "place": "7", "hash": HASH}
    kept.write_text(json.dumps({"heads": [ours, {**ours, "database": "b", "place": "9"}]}))
    command = fake_gateway.start(
        "audit", "verify", "--tenant", "acme", "--earlier", str(kept), "--earlier", f"3:{OTHER}"
    )
    fake_gateway.take().answer(ListAuditHeadsResponse(heads=[HEAD]))
    call = fake_gateway.take()
    assert call.method == "AuditService/VerifyAuditChain"
    assert list(call.request.earlier_heads) == [AuditPlace(place=7, hash=HASH), AuditPlace(place=3, hash=OTHER)]
    call.answer(VerifyAuditChainResponse(end=AuditPlace(place=5, hash=OTHER), more=True, checked=5))
    call = fake_gateway.take()
    assert call.request.start == AuditPlace(place=5, hash=OTHER)
    call.answer(VerifyAuditChainResponse(end=AuditPlace(place=7, hash=HASH), checked=2))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    assert "tenants/acme in a: 7 entries verified, up to place 7, against 2 earlier heads." in ran.err


def test_what_is_wrong_is_told_and_is_the_exit_code(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("audit", "verify", "--tenant", "acme")
    fake_gateway.take().answer(ListAuditHeadsResponse(heads=[HEAD]))
    fault = AuditFault(kind=AuditFaultKind.AUDIT_FAULT_KIND_CHANGED, place=3, description="It says something else.")
    fake_gateway.take().answer(VerifyAuditChainResponse(faults=[fault], end=AuditPlace(place=7, hash=HASH), checked=7))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.FAILED
    assert "changed: It says something else." in ran.err


def test_each_database_of_the_systems_chain_is_verified(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("audit", "verify", "--system", "--json")
    heads = [AuditHead(chain="system", database=name, place=1, hash=HASH) for name in ("a", "catalogue")]
    fake_gateway.take().answer(ListAuditHeadsResponse(heads=heads))
    for name in ("a", "catalogue"):
        call = fake_gateway.take()
        assert (call.request.chain, call.request.database) == ("system", name)
        call.answer(VerifyAuditChainResponse(end=AuditPlace(place=1, hash=HASH), checked=1))
    ran = command.result(SECONDS)
    assert [each["database"] for each in json.loads(ran.out)["chains"]] == ["a", "catalogue"]


@pytest.mark.parametrize("text", ["nonsense", "3:short"])
def test_an_earlier_head_that_is_none_is_said(fake_gateway: FakeGateway, text: str) -> None:
    command = fake_gateway.start("audit", "verify", "--tenant", "acme", "--earlier", text)
    fake_gateway.take().answer(ListAuditHeadsResponse(heads=[HEAD]))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.USAGE
    assert "no PLACE:HASH, and as a file it cannot be read" in ran.err
