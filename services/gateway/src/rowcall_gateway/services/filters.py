"""A caller's JobFilter as the queue takes it, with everything that cannot be meant refused. Called by `job_lists` and
`selections`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest

from rowcall.errors import RowcallError
from rowcall.queue.model import JobFilter
from rowcall.v1 import job_service_pb2
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.edge.metadata import EARLIEST, LATEST
from rowcall_gateway.services.reading import own_key

_TEXTS: Final = ("method", "queue", "error_fingerprint", "actor", "request_id")


def job_filter(call: IncomingCall, wanted: job_service_pb2.JobFilter, path: str) -> JobFilter:
    """What a filter says; its proto's own rules were checked before.

    Args:
        call: Whose jobs are meant.
        wanted: As the caller sent it.
        path: Where it is in the request: "filter", "selection.filter".

    Raises:
        RowcallError: INVALID_FILTER; for the parent INVALID_NAME or JOB_NOT_FOUND.
    """
    for name in _TEXTS:
        _check_text(getattr(wanted, name), f"{path}.{name}")
    for key, value in wanted.labels.items():
        _check_text(key, f"{path}.labels")
        _check_text(value, f"{path}.labels[{key!r}]")
    created = _span(
        time_of(wanted.created_from, f"{path}.created_from") if wanted.HasField("created_from") else None,
        time_of(wanted.created_to, f"{path}.created_to") if wanted.HasField("created_to") else None,
        f"{path}.created",
    )
    finished = _span(
        time_of(wanted.finished_from, f"{path}.finished_from") if wanted.HasField("finished_from") else None,
        time_of(wanted.finished_to, f"{path}.finished_to") if wanted.HasField("finished_to") else None,
        f"{path}.finished",
    )
    return JobFilter(
        states=tuple(sorted(set(wanted.states))) or None,
        method=method_name(wanted.method, f"{path}.method"),
        queue=wanted.queue or None,
        labels=dict(wanted.labels) or None,
        error_fingerprint=wanted.error_fingerprint or None,
        actor=wanted.actor or None,
        request_id=wanted.request_id or None,
        parent_job_id=own_key(call, wanted.parent)[1] if wanted.parent else None,
        created_from=created[0],
        created_to=created[1],
        finished_from=finished[0],
        finished_to=finished[1],
    )


def method_name(text: str, path: str) -> str | None:
    """A method to narrow by, without the slash before it; None where none is given.

    Raises:
        RowcallError: INVALID_FILTER.
    """
    _check_text(text, path)
    name = text.removeprefix("/")
    if text and not all(name.partition("/")):
        raise invalid_filter(path, "is no method; write package.Service/Method")
    return name or None


def time_of(message: Timestamp, path: str) -> datetime:
    """A time to narrow by.

    Raises:
        RowcallError: INVALID_FILTER.
    """
    try:
        time = message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        time = None
    if time is None or not EARLIEST <= time <= LATEST:
        raise invalid_filter(path, f"is not a time from {EARLIEST:%Y} to {LATEST:%Y}")
    return time


def invalid_filter(field: str, what: str) -> RowcallError:
    """A filter or selection that cannot be meant.

    Args:
        field: Where in the request.
        what: What is wrong with it and what to do.
    """
    return RowcallError(
        ErrorReason.ERROR_REASON_INVALID_FILTER,
        f"{field} {what}.",
        details=[BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=what)])],
    )


def _span(start: datetime | None, end: datetime | None, path: str) -> tuple[datetime | None, datetime | None]:
    """From (inclusive) and to (exclusive)."""
    if start is not None and end is not None and start >= end:
        raise invalid_filter(f"{path}_to", "is not after the time it is from, so that nothing can match; set it later")
    return start, end


def _check_text(text: str, path: str) -> None:
    # Protobuf has it, Postgres has not.
    if "\0" in text:
        raise invalid_filter(path, "has the character U+0000, which no job has; leave it out")
