"""The line that is written for every call. Called by the interceptor, at the call's end.

In JSON it is put together here, as structlog would have it, letter for letter: passed through structlog it cost a call
more than reading its metadata, checking its request and writing its row's share of the batch together.
"""

from __future__ import annotations

from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from typing import Final

import structlog

from rowcall import logs

_log = structlog.get_logger(__name__)
_NULL: Final = "null"


def write_request_line(
    *,
    method: str,
    code: str,
    reason: str | None,
    exception: str | None,
    duration_ms: float,
    trace_id: str,
    tenant: str | None,
    actor: str | None,
    credential: str | None,
    request_id: str | None,
    job: str | None,
) -> None:
    """Writes the line: at once where structlog writes it, within milliseconds where it is JSON."""
    lines = logs.hot_lines()
    if lines is None:
        _log.info(
            "call",
            method=method,
            code=code,
            reason=reason,
            exception=exception,
            duration_ms=duration_ms,
            trace_id=trace_id,
            tenant=tenant,
            actor=actor,
            credential=credential,
            request_id=request_id,
            job=job,
        )
        return
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    lines.write(
        f'{{"method": {_quoted(method)}, "code": "{code}"'
        f', "reason": {_NULL if reason is None else _quoted(reason)}'
        f', "exception": {_NULL if exception is None else _quoted(exception)}'
        f', "duration_ms": {duration_ms!r}, "trace_id": "{trace_id}"'
        f', "tenant": {_NULL if tenant is None else _quoted(tenant)}'
        f', "actor": {_NULL if actor is None else _quoted(actor)}'
        f', "credential": {_NULL if credential is None else _quoted(credential)}'
        f', "request_id": {_NULL if request_id is None else _quoted(request_id)}'
        f', "job": {_NULL if job is None else _quoted(job)}'
        f', "event": "call", {lines.origin}, "level": "info", "timestamp": "{time}"}}\n'
    )
