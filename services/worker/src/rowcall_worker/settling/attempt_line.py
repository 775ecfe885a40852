"""The line that is written for an attempt that went well. Called by `traces`.

In JSON it is put together here, as structlog would have it: as the gateway's line of a call, and for the same reason.
"""

from __future__ import annotations

from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from typing import Final

import structlog

from rowcall import logs
from rowcall.context import bind
from rowcall_worker.running.attempt import Attempt

_log = structlog.get_logger(__name__)
_NULL: Final = "null"


def write_attempt_line(attempt: Attempt, *, shard: str, seconds: float, state: str) -> None:
    """Writes the line: at once where structlog writes it, within milliseconds where it is JSON.

    Args:
        attempt: Which one.
        shard: Where its job is.
        seconds: How long it took.
        state: What its job is then.
    """
    duration_ms = round(seconds * 1000, 3)
    lines, call, lease = logs.hot_lines(), attempt.call, attempt.job.lease
    if lines is None:
        with bind(call):
            _log.info(
                "attempt", method=attempt.method.name, shard=shard, lease=lease, state=state, duration_ms=duration_ms
            )
        return
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    lines.write(
        f'{{"method": {_quoted(attempt.method.name)}, "shard": "{shard}", "lease": {lease}, "state": "{state}"'
        f', "duration_ms": {duration_ms!r}, "event": "attempt", {lines.origin}, "trace_id": "{call.trace.trace_id}"'
        f', "request_id": {_NULL if call.request_id is None else _quoted(call.request_id)}'
        f', "tenant": {_quoted(call.tenant)}, "actor": {_NULL if call.actor is None else _quoted(call.actor)}'
        f', "job": {_quoted(call.operation or "")}, "attempt": {call.attempt}, "span_id": "{call.trace.span_id}"'
        f', "level": "info", "timestamp": "{time}"}}\n'
    )
