"""The attempt's line that is put together by hand is the one that structlog would write."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcall import logs
from rowcall.context import CallContext, bind
from rowcall.tracing import TraceContext
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.settling.attempt_line import write_attempt_line

Capture = pytest.CaptureFixture[str]

TIME = re.compile(r'"timestamp": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"')


@pytest.fixture(autouse=True)
def _own_logger(monkeypatch: pytest.MonkeyPatch, restored_logs: None) -> None:
    # A process configures its logs once; a logger keeps what it found at its first line.
    monkeypatch.setattr("rowcall_worker.settling.attempt_line._log", structlog.get_logger())


def attempt(call: CallContext, method: str, lease: int) -> Attempt:
    return cast(
        "Attempt", SimpleNamespace(call=call, method=SimpleNamespace(name=method), job=SimpleNamespace(lease=lease))
    )


texts = st.none() | st.text(max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    method=st.text(max_size=40),
    request_id=texts,
    actor=texts,
    seconds=st.floats(0, 1e6),
)
def test_it_is_structlogs_letter_for_letter(
    capsys: Capture, method: str, request_id: str | None, actor: str | None, seconds: float
) -> None:
    logs.configure("info", "json", "worker", process=2)
    call = CallContext("acme", actor, request_id, TraceContext.mint(), "tenants/acme/operations/1", 3)
    capsys.readouterr()

    write_attempt_line(attempt(call, method, 7), shard="a", seconds=seconds, state="SUCCEEDED")
    ours = capsys.readouterr().err
    with bind(call):
        structlog.get_logger().info(
            "attempt", method=method, shard="a", lease=7, state="SUCCEEDED", duration_ms=round(seconds * 1000, 3)
        )
    theirs = capsys.readouterr().err

    assert TIME.search(ours)
    assert TIME.sub("", ours) == TIME.sub("", theirs)
    assert set(json.loads(ours)) <= logs.FIELDS


@pytest.mark.parametrize(("level", "format_"), [("warning", "json"), ("info", "console")])
def test_below_the_level_and_for_people_it_is_structlogs(capsys: Capture, level: str, format_: Any) -> None:
    logs.configure(level, format_, "worker")
    call = CallContext("acme", None, None, TraceContext.mint(), "tenants/acme/operations/1", 1)
    write_attempt_line(attempt(call, "a.B/C", 7), shard="a", seconds=0.5, state="SUCCEEDED")
    text = capsys.readouterr().err
    assert ("a.B/C" in text) == (level == "info")
    assert not text.startswith("{")
