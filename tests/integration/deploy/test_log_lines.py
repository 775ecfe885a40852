"""The schema of our log lines, held against the lines of a real gateway and a real worker."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code

from rowcall.logs import FIELDS
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest
from tests.fix_gateway import refused, tenant
from tests.fix_services import Services
from tests.support.places import ROOT

SCHEMA = ROOT / "docs" / "log-line.schema.json"
GOOD = {
    "event": "call",
    "level": "info",
    "service": "gateway",
    "timestamp": "2031-05-04T10:11:12.123456Z",
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "duration_ms": 1.5,
    "exception": None,
}


def faults(folder: Path, lines: Sequence[object]) -> str:
    """What is wrong with lines; empty: nothing."""
    (folder / "schema.json").write_text(json.dumps({"type": "array", "items": json.loads(SCHEMA.read_text("utf-8"))}))
    (folder / "lines.json").write_text(json.dumps(lines))
    checked = subprocess.run(
        [Path(sys.executable).with_name("check-jsonschema"), "--schemafile", folder / "schema.json", folder / "lines.json"],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    return "" if checked.returncode == 0 else checked.stdout + checked.stderr


def test_the_schema_has_the_fields_that_lines_may_have_and_no_others() -> None:
    schema: dict[str, Any] = json.loads(SCHEMA.read_text("utf-8"))
    assert set(schema["properties"]) == FIELDS
    assert schema["additionalProperties"] is False


async def run(address: str) -> None:
    """Calls that are answered, that fail in their handler, that go on, and that are refused."""
    async with grpc.aio.insecure_channel(address) as channel:
        probe: probe_pb2_grpc.ProbeServiceAsyncStub = probe_pb2_grpc.ProbeServiceStub(channel)
        acme = tenant("acme", ("rowcall-actor", "ann"))
        await probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=acme)
        failing = AwaitRequest(fail_code=Code.INTERNAL, fail_attempts=9)
        await refused(probe.Await(failing, timeout=20, metadata=acme))
        await refused(probe.Await(AwaitRequest(work=Duration(seconds=1)), timeout=0.5, metadata=acme))
        await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(("rowcall-tenant", "No Tenant"),)))
        nobodys: Callable[..., Awaitable[bytes]] = channel.unary_unary("/no.such.Service/Method")
        await refused(nobodys(b"", timeout=20, metadata=acme))


async def test_the_lines_of_a_run_are_as_the_schema_says(services: Services, tmp_path: Path) -> None:
    gateway = services.gateway("127.0.0.1:0", ROWCALL_LOG_LEVEL="debug")
    worker = services.worker(ROWCALL_LOG_LEVEL="debug")
    address = await asyncio.to_thread(gateway.address)
    await asyncio.to_thread(worker.ready)
    await run(address)
    for each in (gateway, worker):
        assert await asyncio.to_thread(each.end) == 0
    lines = [json.loads(line) for each in (gateway, worker) for line in each.log]
    assert {"call", "draining", "worker starts", "worker drained"} <= {line["event"] for line in lines}
    assert not [line for line in lines if "unlisted" in line]
    assert faults(tmp_path, lines) == ""


def test_a_line_that_is_otherwise_is_found(tmp_path: Path) -> None:
    place = {"type": "builtins.ValueError", "at": ["a.py:1 f"]}
    good = [GOOD, {**GOOD, "exception": [place]}, {**GOOD, "databases": {"a": 3}, "methods": ["a.B/C"]}]
    assert faults(tmp_path, good) == ""
    wrong: list[dict[str, object]] = [
        {**GOOD, "payload": "card 4111-1111"},
        {name: value for name, value in GOOD.items() if name != "event"},
        {**GOOD, "trace_id": "0af7"},
        {**GOOD, "timestamp": "2031-05-04 10:11:12"},
        {**GOOD, "level": "notice"},
        {**GOOD, "duration_ms": "1.5"},
        {**GOOD, "exception": [{**place, "message": "card 4111-1111"}]},
        {**GOOD, "databases": {"a": ["x"]}},
    ]
    said = faults(tmp_path, wrong)
    for number in range(len(wrong)):
        assert f"$[{number}]" in said, said
