"""The request line that is put together by hand is the one that structlog would write."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcall import logs
from rowcall_gateway.edge.request_line import write_request_line

Capture = pytest.CaptureFixture[str]

LINE: dict[str, Any] = {
    "method": "a.B/C",
    "code": "OK",
    "reason": None,
    "exception": None,
    "duration_ms": 1.25,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "tenant": "acme",
    "actor": "ada",
    "credential": "jwt https://login.example.com",
    "request_id": "k",
    "job": "tenants/acme/operations/1",
}
TIME = re.compile(r'"timestamp": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"')


@pytest.fixture(autouse=True)
def _own_logger(monkeypatch: pytest.MonkeyPatch, restored_logs: None) -> None:
    # A process configures its logs once; a logger keeps what it found at its first line.
    monkeypatch.setattr("rowcall_gateway.edge.request_line._log", structlog.get_logger())


texts = st.none() | st.text(max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    method=st.text(max_size=40),
    reason=texts,
    tenant=texts,
    actor=texts,
    credential=texts,
    request_id=texts,
    job=texts,
    duration_ms=st.floats(0, 1e9).map(lambda number: round(number, 3)),
    process=st.none() | st.integers(1, 64),
)
def test_it_is_structlogs_letter_for_letter(capsys: Capture, process: int | None, **changes: Any) -> None:
    logs.configure("info", "json", "gateway", process=process)
    capsys.readouterr()

    write_request_line(**{**LINE, **changes})
    ours = capsys.readouterr().err
    structlog.get_logger().info("call", **{**LINE, **changes})
    theirs = capsys.readouterr().err

    assert TIME.search(ours)
    assert TIME.sub("", ours) == TIME.sub("", theirs)
    assert set(json.loads(ours)) <= logs.FIELDS


async def test_lines_are_written_together_and_before_any_other(capsys: Capture) -> None:
    logs.configure("info", "json", "gateway")
    for number in range(3):
        write_request_line(**{**LINE, "request_id": str(number)})
    assert capsys.readouterr().err == "", "they wait for each other"

    structlog.get_logger().info("another")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("request_id") or line["event"] for line in lines] == ["0", "1", "2", "another"]


async def test_a_line_is_written_soon_though_nothing_else_is(capsys: Capture) -> None:
    logs.configure("info", "json", "gateway")
    write_request_line(**LINE)
    text = ""
    async with asyncio.timeout(20):
        while not text:
            await asyncio.sleep(0.005)
            text = capsys.readouterr().err
    assert json.loads(text)["event"] == "call"


@pytest.mark.parametrize(("level", "format_"), [("warning", "json"), ("info", "console")])
async def test_below_the_level_and_for_people_it_is_structlogs(capsys: Capture, level: str, format_: Any) -> None:
    logs.configure(level, format_, "gateway")
    write_request_line(**LINE)
    text = capsys.readouterr().err
    assert ("a.B/C" in text) == (level == "info")
    assert not text.startswith("{")


def test_whoever_captures_lines_gets_it(capsys: Capture) -> None:
    logs.configure("info", "json", "gateway")
    with structlog.testing.capture_logs() as captured:
        write_request_line(**LINE)
    assert [line["event"] for line in captured] == ["call"]
    assert capsys.readouterr().err == ""
