"""`rowcall tenants list`, `show`, `export`, `erase` and `reopen` against a running gateway."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall_gateway.server import Gateway
from rowcall_gateway.services import exports
from tests.fix_commands import Ran
from tests.fix_gateway import Gateways, tenant

pytestmark = pytest.mark.usefixtures("quick_erasures")

Command = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def gateway(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """One whose erasures wait for as good as nothing, and whose exports have small pages; with jobs of acme and bolt."""
    monkeypatch.setattr(exports, "ROWS", 2)
    made = await gateways.start()
    probe = ProbeServiceStub(await gateways.channel(made))
    for name, number in (("acme", 0), ("acme", 1), ("acme", 2), ("bolt", 3)):
        await probe.Run(
            RunRequest(payload=b"secret %d" % number),
            timeout=20,
            metadata=tenant(name, ("prefer", "wait=0"), ("idempotency-key", f"k{number}")),
        )
    return made


@pytest.fixture
async def command(rowcall_process: Callable[..., Ran], gateway: Gateway, tmp_path: Path) -> Command:
    """Runs `rowcall tenants ARGUMENTS` against it, in a folder of its own."""

    async def run(*arguments: object, **variables: str) -> Ran:
        return await asyncio.to_thread(
            rowcall_process,
            "tenants",
            *map(str, arguments),
            cwd=tmp_path,
            **{"ROWCALL_ADDRESS": gateway.address, **variables},
        )

    return run


def look(file: Path) -> tuple[int, list[str], bytes]:
    """A file's rights, what lies beside it, and what is in it."""
    return file.stat().st_mode & 0o777, sorted(path.name for path in file.parent.iterdir()), file.read_bytes()


async def test_tenants_are_listed_and_shown(command: Command) -> None:
    listed = await command("list")
    assert listed.code == 0, listed.err
    lines = [line.split() for line in listed.out.splitlines()]
    assert [line[0] for line in lines] == ["tenant", "acme", "bolt"]
    assert lines[1][2:4] == ["active", "1"]
    assert [each["name"] for each in (await command("list", "--json")).json["tenants"]] == [
        "tenants/acme", "tenants/bolt",
    ]  # fmt: skip
    shown = await command("show", "acme")
    assert [line.split() for line in shown.out.splitlines() if line.startswith("ready")] == [["ready", "3"]]
    assert (await command("show", "tenants/acme", "--json")).json["jobs"] == {"ready": "3"}
    nobody = await command("show", "nobody")
    assert (nobody.code, "NOT_KNOWN" in nobody.err) == (1, True)


async def test_a_tenant_is_exported_to_a_file_that_only_its_owner_reads(command: Command, tmp_path: Path) -> None:
    done = await command("export", "acme", "--json")

    assert done.code == 0, done.err
    file = tmp_path / "acme.jsonl"
    mode, names, data = await asyncio.to_thread(look, file)
    assert (mode, names) == (0o600, ["acme.jsonl"])
    told = done.json
    assert (told["sha256"], told["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    records = [json.loads(line) for line in data.splitlines()]
    kinds = [next(iter(record)) for record in records]
    assert {kind: kinds.count(kind) for kind in kinds} == told["records"]
    assert (told["records"]["key"], told["records"]["job"]) == (3, 3)
    payloads = [base64.b64decode(each["job"]["request"]["bytes"]) for each in records if "job" in each]
    assert payloads == [RunRequest(payload=b"secret %d" % number).SerializeToString() for number in range(3)]
    again = await command("export", "acme")
    assert (again.code, "acme.jsonl is there already" in again.err) == (2, True)


async def test_an_erasure_is_previewed_asked_about_and_ends_with_a_receipt(command: Command) -> None:
    there = await command("erase", "acme", "--dry-run", "--json")
    counts = {each["kind"]: each["rows"] for each in there.json["erased"]}
    assert (counts["jobs"], counts["keys"]) == ("3", "3")
    asked = await command("erase", "acme")
    assert (asked.code, "--yes" in asked.err, "3 jobs" in asked.err) == (2, True, True)
    assert (await command("show", "acme", "--json")).json["state"] == "TENANT_STATE_ACTIVE"

    erased = await command("erase", "acme", "--yes", "--note", "contract ended", "--actor", "ada", "--json")

    assert erased.code == 0, erased.err
    receipt = erased.json
    assert (receipt["name"], receipt["actor"], receipt["note"]) == ("tenants/acme", "ada", "contract ended")
    assert {each["kind"]: each["rows"] for each in receipt["erased"]}.items() >= {"jobs": "3", "keys": "3"}.items()
    assert "finish_time" in receipt
    assert "rows are erased" in erased.err, "it says how far it is"
    again = await command("erase", "acme", "--yes", "--json")
    assert again.json == receipt
    text = (await command("erase", "acme", "--yes")).out
    assert "contract ended" in text
    assert (await command("list")).out.splitlines()[1].split()[2] == "erased"
    assert (await command("show", "bolt", "--json")).json["jobs"] == {"ready": "1"}

    opened = await command("reopen", "acme")
    assert (opened.code, "its calls are taken" in opened.err) == (0, True)
    assert (await command("show", "acme", "--json")).json["state"] == "TENANT_STATE_ACTIVE"
    twice = await command("reopen", "acme")
    assert (twice.code, "TENANT_NOT_ERASED" in twice.err) == (1, True)
