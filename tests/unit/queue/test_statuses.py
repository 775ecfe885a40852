"""Errors that the queue itself writes, and what is added to them on their way to a caller."""

from __future__ import annotations

from uuid import UUID

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RequestInfo
from google.rpc.status_pb2 import Status

from rowcall.errors import handler_status, read_envelope
from rowcall.queue import statuses

JOB = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [(statuses.cancelled(), "JOB_CANCELLED", 1), (statuses.worker_lost(), "WORKER_LOST", 10)],
)
def test_the_queues_own_errors_become_the_jobs(error: bytes, reason: str, code: int) -> None:
    status = statuses.addressed(error, tenant="acme", job_id=JOB, attempt=3, trace_id="a" * 32)
    info = read_envelope(status)
    assert info is not None
    assert (info.reason, status.code) == (reason, code)
    assert dict(info.metadata) == {
        "origin": "JOB",
        "operation": f"tenants/acme/operations/{JOB}",
        "attempt": "3",
        "trace_id": "a" * 32,
    }


@pytest.mark.parametrize("error", [statuses.cancelled(), statuses.worker_lost()])
def test_the_queues_own_errors_name_the_trace_in_the_request_info_too(error: bytes) -> None:
    status = statuses.addressed(error, tenant="acme", job_id=JOB, attempt=3, trace_id="a" * 32)
    asked = RequestInfo()
    assert status.details[1].Unpack(asked)
    assert asked.serving_data == f"rowcall.dev origin=JOB trace_id={'a' * 32}"


def test_a_detail_that_cannot_be_read_hinders_nobody() -> None:
    """Of a row that no worker of ours wrote: what handlers say is read before it is one."""
    told = handler_status(Status(code=5), operation="tenants/x", attempt=2, trace_id="b" * 32)
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    row = Status(code=5, details=[broken, *told.details])
    status = statuses.addressed(row.SerializeToString(), tenant="acme", job_id=JOB, attempt=9, trace_id="a" * 32)
    assert status == row


def test_what_an_error_says_itself_stays() -> None:
    own = handler_status(Status(code=5, message="no such file"), operation="tenants/x", attempt=2, trace_id="b" * 32)
    status = statuses.addressed(own.SerializeToString(), tenant="acme", job_id=JOB, attempt=9, trace_id="a" * 32)
    assert status == own
