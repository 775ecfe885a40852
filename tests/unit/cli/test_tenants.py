"""`rowcall tenants`: the requests that are sent, what is told of the answers, and exports that go on where they were broken off."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

from rowcall.v1.job_pb2 import Attempt, Job
from rowcall.v1.tenant_service_pb2 import (
    ErasedRows,
    EraseTenantResponse,
    Erasure,
    ExportedKey,
    ExportedRecord,
    ExportTenantResponse,
    ListTenantsResponse,
    Tenant,
    TenantState,
)
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway

SECRET = Any(type_url="type.googleapis.com/acme.v1.NobodyKnows", value=b"\x00secret")
JOB = Job(
    name="tenants/acme/operations/1",
    request=SECRET,
    error=Status(code=3, message="no", details=[SECRET]),
    attempts=[Attempt(attempt=1), Attempt(attempt=2, error=Status(code=3, details=[SECRET]))],
)
AWAY = Status(code=14, message="away")


def page(number: int, token: str) -> ExportTenantResponse:
    key = ExportedKey(request_id=f"k{number}")
    return ExportTenantResponse(records=[ExportedRecord(key=key)], next_page_token=token)


def test_tenants_are_asked_for_page_by_page(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("tenants", "list", "--shard", "a")
    call = fake_gateway.take()
    assert (call.method, call.request.shard, call.request.page_size) == ("TenantService/ListTenants", "a", 1000)
    acme = Tenant(name="tenants/acme", shard="a", state=TenantState.TENANT_STATE_ERASING, weight=2.5)
    call.answer(ListTenantsResponse(tenants=[acme], next_page_token="more"))
    call = fake_gateway.take()
    assert call.request.page_token == "more"
    call.answer(ListTenantsResponse(tenants=[Tenant(name="tenants/bolt", shard="b")], unreachable_shards=["b"]))
    ran = command.result(SECONDS)
    assert [line.split() for line in ran.out.splitlines()[1:]] == [["acme", "a", "erasing", "2.5"], ["bolt", "b"]]
    assert (ran.code, "no answer from b" in ran.err) == (ExitCode.UNREACHABLE, True)


def test_payloads_are_exported_as_the_bytes_that_they_are_whatever_their_type(
    fake_gateway: FakeGateway, tmp_path: Path
) -> None:
    file = tmp_path / "acme.jsonl"
    command = fake_gateway.start("tenants", "export", "acme", "--to", str(file))
    call = fake_gateway.take()
    assert (call.request.name, call.request.without_payloads) == ("tenants/acme", False)
    assert call.metadata == {"rowcall-tenant": "acme"}
    call.answer(ExportTenantResponse(records=[ExportedRecord(job=JOB)]))
    assert command.result(SECONDS).code == ExitCode.OK
    [record] = map(json.loads, file.read_text().splitlines())
    whole = {"type": "acme.v1.NobodyKnows", "bytes": base64.b64encode(SECRET.value).decode()}
    job = record["job"]
    assert (job["request"], job["error"]["details"], job["error"]["message"]) == (whole, [whole], "no")
    assert [attempt.get("error", {}).get("details") for attempt in job["attempts"]] == [None, [whole]]


def test_an_export_that_was_broken_off_goes_on_where_it_was(fake_gateway: FakeGateway, tmp_path: Path) -> None:
    file, part = tmp_path / "acme.jsonl", tmp_path / "acme.jsonl.part"
    arguments = ("tenants", "export", "acme", "--to", str(file))
    command = fake_gateway.start(*arguments)
    fake_gateway.take().answer(page(1, "second"))
    call = fake_gateway.take()
    assert call.request.page_token == "second"
    call.refuse(AWAY)
    assert (command.result(SECONDS).code, fake_gateway.next_call()) == (ExitCode.UNREACHABLE, None)
    assert not file.exists()
    # It was killed while it wrote the second page.
    with part.open("a") as written:
        written.write('{"key": {"request_id": "k2')

    other = fake_gateway.start("tenants", "export", "bolt", "--to", str(file)).result(SECONDS)
    assert (other.code, "of another export" in other.err) == (ExitCode.USAGE, True)
    assert fake_gateway.next_call() is None
    command = fake_gateway.start(*arguments, "--json")
    call = fake_gateway.take()
    assert call.request.page_token == "second"
    call.answer(page(2, "third"))
    fake_gateway.take().answer(page(3, ""))
    ran = command.result(SECONDS)
    assert (ran.code, "Going on with" in ran.err) == (ExitCode.OK, True)
    assert [json.loads(line)["key"]["request_id"] for line in file.read_text().splitlines()] == ["k1", "k2", "k3"]
    assert json.loads(ran.out)["records"] == {"key": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acme.jsonl"]


def test_an_export_that_has_its_last_page_asks_for_no_other(fake_gateway: FakeGateway, tmp_path: Path) -> None:
    file = tmp_path / "acme.jsonl"
    (tmp_path / "acme.jsonl.part").write_text('{"key": {}}\n')
    kept = {"tenant": "tenants/acme", "payloads": True, "token": "", "size": 12, "counts": {"key": 1}}
    (tmp_path / "acme.jsonl.part.at").write_text(json.dumps(kept))
    ran = fake_gateway.start("tenants", "export", "acme", "--to", str(file)).result(SECONDS)
    assert (ran.code, file.read_text()) == (ExitCode.OK, '{"key": {}}\n')


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"tenant": 1}'])
def test_what_is_left_of_an_export_must_be_ours(fake_gateway: FakeGateway, tmp_path: Path, kept: str) -> None:
    (tmp_path / "acme.jsonl.part.at").write_text(kept)
    ran = fake_gateway.start("tenants", "export", "acme", "--to", str(tmp_path / "acme.jsonl")).result(SECONDS)
    assert (ran.code, "remove it to begin anew" in ran.err) == (ExitCode.USAGE, True)


def test_an_export_that_cannot_be_written_says_where(fake_gateway: FakeGateway, tmp_path: Path) -> None:
    ran = fake_gateway.start("tenants", "export", "acme", "--to", str(tmp_path / "no" / "acme.jsonl")).result(SECONDS)
    assert (ran.code, "cannot be written (No such file or directory)" in ran.err) == (ExitCode.USAGE, True)


def erasure(rows: int, remaining: str = "") -> Erasure:
    return Erasure(
        name="tenants/acme", shard="a", number=1, erased=[ErasedRows(kind="jobs", rows=rows)], remaining=remaining,
        kept=["Its name."],
    )  # fmt: skip


def test_an_erasure_goes_on_until_it_is_done_and_says_how_far_it_is(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("tenants", "erase", "acme", "--yes", "--note", "over", "--actor", "ada")
    for rows, remaining in ((5, "There is more to erase."), (9, "Jobs of it still run.")):
        call = fake_gateway.take()
        assert (call.request.note, call.request.validate_only) == ("over", False)
        assert call.metadata == {"rowcall-tenant": "acme", "rowcall-actor": "ada"}
        call.answer(EraseTenantResponse(erasure=erasure(rows, remaining), retry_delay=Duration(nanos=1)))
    fake_gateway.take().answer(EraseTenantResponse(done=True, erasure=erasure(12)))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.OK
    assert "5 rows are erased. There is more to erase." in ran.err
    assert "9 rows are erased. Jobs of it still run." in ran.err
    assert "12 erased" in ran.out
    assert "Its name." in ran.out


def test_an_erasure_that_was_broken_off_says_how_to_go_on(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("tenants", "erase", "acme", "--yes")
    fake_gateway.take().refuse(AWAY)
    ran = command.result(SECONDS)
    assert (ran.code, "run the command again to go on" in ran.err) == (ExitCode.UNREACHABLE, True)


def test_nothing_is_erased_where_nobody_can_be_asked(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("tenants", "erase", "acme")
    call = fake_gateway.take()
    assert call.request.validate_only
    call.answer(EraseTenantResponse(erasure=erasure(10_000)))
    ran = command.result(SECONDS)
    assert ran.code == ExitCode.USAGE
    assert "10000 or more jobs" in ran.err
    assert "--yes" in ran.err
