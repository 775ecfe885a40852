"""deploy/otelcol/logs.yaml in the OpenTelemetry collector: lines of a real run come out as log records, whole, once, each with its trace.

In the long form only (`make chaos`): where nothing of it is cached, building the collector takes minutes of processor time.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.rpc.code_pb2 import Code
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest
from tests.fix_gateway import refused, tenant
from tests.fix_otelcol import LogsTaker, RunOtelcol, logs_taker
from tests.fix_services import Services
from tests.support.golang import BUILD_SECONDS
from tests.support.places import ROOT
from tests.support.scale import LONG
from tests.support.waiting import until

CONFIGURATION: Final = ROOT / "deploy" / "otelcol" / "logs.yaml"
SEVERITIES: Final = {
    "debug": SeverityNumber.SEVERITY_NUMBER_DEBUG,
    "info": SeverityNumber.SEVERITY_NUMBER_INFO,
    "warning": SeverityNumber.SEVERITY_NUMBER_WARN,
    "error": SeverityNumber.SEVERITY_NUMBER_ERROR,
}
CRASH: Final = [
    "Fatal Python error: Segmentation fault",
    "",
    "Current thread 0x00007f0000000000 (most recent call first):",
]
# What the collector says of where a line was.
OF_FILES: Final = {"log.file.name", "log.file.path", "log.iostream", "logtag"}

pytestmark = [
    pytest.mark.timeout(2 * BUILD_SECONDS),
    pytest.mark.skipif(
        not LONG, reason="NOT TRIED WITH THE OPENTELEMETRY COLLECTOR: building it takes minutes; make chaos does"
    ),
]

Record = tuple[str, LogRecord]
"""A record, and whose it is: service.name."""


def plain(value: AnyValue) -> Any:
    """What a value of OTLP holds."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [plain(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return by_name(value.kvlist_value.values)
    return getattr(value, kind)


def by_name(pairs: Any) -> dict[str, Any]:
    """Attributes as a dict."""
    found: list[KeyValue] = list(pairs)
    return {each.key: plain(each.value) for each in found}


def records(taker: LogsTaker) -> list[Record]:
    """All that have come."""
    return [
        (by_name(of.resource.attributes).get("service.name", ""), record)
        for of in taker.taken
        for scope in of.scope_logs
        for record in scope.log_records
    ]


async def told_lines(services: Services) -> dict[str, list[str]]:
    """What a gateway and a worker write in a small run."""
    gateway, worker = services.gateway(ROWCALL_LOG_LEVEL="debug"), services.worker(ROWCALL_LOG_LEVEL="debug")
    address = await asyncio.to_thread(gateway.address)
    await asyncio.to_thread(worker.ready)
    async with grpc.aio.insecure_channel(address) as channel:
        probe: probe_pb2_grpc.ProbeServiceAsyncStub = probe_pb2_grpc.ProbeServiceStub(channel)
        for _ in range(20):
            await probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=tenant("acme"))
        await refused(
            probe.Await(AwaitRequest(fail_code=Code.INTERNAL, fail_attempts=9), timeout=20, metadata=tenant("acme"))
        )
    for each in (gateway, worker):
        assert await asyncio.to_thread(each.end) == 0
    return {
        "gateway": [line.rstrip("\n") for line in gateway.log],
        "worker": [line.rstrip("\n") for line in worker.log],
    }


def write(folder: Path, told: dict[str, list[str]]) -> list[str]:
    """Puts the lines where the collector looks: as they are, as containerd has them, and as Docker has them; all that was written."""
    folder.mkdir()
    half = len(told["gateway"]) // 2
    at = "2031-05-04T10:11:12.123456789Z"
    files = {
        "gateway.log": told["gateway"][:half] + [line for line in CRASH if line],
        "containerd.log": [f"{at} stderr F {line}" for line in told["worker"]],
        "docker.log": [
            json.dumps({"log": f"{line}\n", "stream": "stderr", "time": at}, separators=(",", ":"))
            for line in told["gateway"][half:]
        ],
    }
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return told["gateway"] + told["worker"]


def as_line(record: Record) -> dict[str, Any]:
    """The line that a record was, as far as it tells."""
    service, found = record
    names = {number: name for name, number in SEVERITIES.items()}
    fields = {name: value for name, value in by_name(found.attributes).items() if name not in OF_FILES}
    return {
        **fields,
        "event": found.body.string_value,
        "level": names[found.severity_number],
        "service": service.removeprefix("rowcall-"),
        "timestamp": found.time_unix_nano // 1000,
    }


def comparable(line: dict[str, Any]) -> str:
    """A line in the form that both sides have it in."""
    if isinstance(line["timestamp"], str):
        at = datetime.fromisoformat(line["timestamp"])
        line = {**line, "timestamp": int(at.timestamp()) * 1_000_000 + at.microsecond}
    return json.dumps(line, sort_keys=True)


async def test_lines_come_out_whole_and_once_also_when_the_collector_is_started_again(
    services: Services, run_otelcol: RunOtelcol, tmp_path: Path
) -> None:
    told = await told_lines(services)
    written = write(tmp_path / "lines", told)
    with logs_taker() as (taker, address):
        state = tmp_path / "state"
        state.mkdir()
        variables = {
            "ROWCALL_LOGS": f"{tmp_path / 'lines'}/*.log",
            "ROWCALL_LOGS_STATE": str(state),
            "ROWCALL_LOGS_TO": address,
            "ROWCALL_LOGS_TO_PLAINTEXT": "true",
        }
        crashed = [line for line in CRASH if line]
        with run_otelcol(CONFIGURATION, **variables):
            await until(lambda: len(records(taker)) >= len(written) + len(crashed), every=0.2, seconds=60)
        found = records(taker)
        # Only what is new is read by the next one.
        last = json.dumps({**json.loads(written[-1]), "event": "one more"})
        with (tmp_path / "lines" / "gateway.log").open("a") as file:
            file.write(f"{last}\n")
        with run_otelcol(CONFIGURATION, **variables):
            await until(lambda: len(records(taker)) > len(found), every=0.2, seconds=60)
        again = records(taker)[len(found) :]
    assert [record.body.string_value for _, record in again] == ["one more"]
    unparsed = [record for _, record in found if by_name(record.attributes).get("unparsed")]
    assert sorted(record.body.string_value for record in unparsed) == sorted(crashed)
    parsed = [each for each in found if each[1] not in unparsed]
    assert sorted(map(comparable, map(as_line, parsed))) == sorted(comparable(json.loads(line)) for line in written)
    traced = {record.trace_id.hex() for _, record in parsed if record.trace_id}
    assert traced == {line["trace_id"] for line in map(json.loads, written) if line.get("trace_id")}
    assert traced
