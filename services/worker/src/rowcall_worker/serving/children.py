"""Jobs that handlers submit: checked at the call, kept with the attempt, written with its settlement if that counts.

Handlers reach `Children.draft` through `context.submit`; `rowcall_worker.settling.settler` asks for the rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast
from uuid import UUID

import uuid_utils.compat
from google.protobuf.message import Message

from rowcall.catalogue.images import Catalogue
from rowcall.catalogue.model import JobMethod
from rowcall.catalogue.requests import decode, fingerprint
from rowcall.errors import RowcallError
from rowcall.names import operation_name
from rowcall.queue.faults import ChildRefusedError
from rowcall.queue.model import LANES, ClaimedJob, Submission
from rowcall.queue.protocol import WorkQueue
from rowcall.tracing import TraceContext
from rowcall.v1.error_reason_pb2 import ErrorReason

MAX_CHILDREN: Final = 1000
"""The most jobs that one attempt may submit."""

MAX_KEY_CHARS: Final = 255
"""Of a request id and of a label's value."""
MAX_LABELS: Final = 16
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9998, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Child:
    """A job that a handler wants to be submitted when its own has succeeded."""

    method: JobMethod
    job_id: UUID
    request: bytes
    message: Message
    """The request, of the catalogue's class."""
    request_id: str | None
    lane: int
    run_at: datetime | None
    labels: Mapping[str, str]


class Children:
    """The children of one shard's jobs."""

    def __init__(self, catalogue: Catalogue, queue: WorkQueue, *, max_request_bytes: int) -> None:
        """Args:
        catalogue: The methods that there are: of the worker's servicers and its images.
        queue: The shard's.
        max_request_bytes: A larger request is refused.
        """
        self._catalogue = catalogue
        self._queue = queue
        self._max_request_bytes = max_request_bytes

    def draft(
        self,
        name: str,
        request: object,
        *,
        request_id: object,
        run_at: object,
        priority: object,
        labels: Mapping[str, str] | None,
    ) -> Child:
        """A child as it will be submitted, of whatever the handler gave.

        Raises RowcallError: CHILD_REFUSED, which says what is wrong.
        """
        method = self._catalogue.method(name)
        if method is None:
            raise _refused(
                name,
                "this worker knows no job type of that name; register its servicer, or name the image that has it with "
                "--image",
            )
        if not isinstance(request, Message) or request.DESCRIPTOR.full_name != method.request_type:
            actual = request.DESCRIPTOR.full_name if isinstance(request, Message) else type(request).__name__
            raise _refused(method.name, f"its request is a {method.request_type}, not a {actual}")
        data = request.SerializePartialToString()
        if len(data) > self._max_request_bytes:
            raise _refused(
                method.name,
                f"its request has {len(data)} bytes and may have {self._max_request_bytes} (--max-request-bytes)",
            )
        try:
            message = decode(method, data)
            method.validator.check(message)
        except RowcallError as error:
            raise _refused(method.name, error.message, error) from error
        own = getattr(message, "request_id", "") if method.has_request_id else ""
        if own and request_id is not None and own != request_id:
            raise _refused(method.name, "the request's own request_id is another one than the call's; give one of them")
        return Child(
            method,
            uuid_utils.compat.uuid7(),
            data,
            message,
            _checked_key(method.name, own or request_id),
            _checked_lane(method, priority),
            _checked_time(method.name, run_at),
            _checked_labels(method.name, labels or {}),
        )

    async def submissions(self, parent: ClaimedJob, trace: TraceContext, children: list[Child]) -> list[Submission]:
        """The rows of an attempt's children. Raises RowcallError: the shard cannot be asked now."""
        return [
            Submission(
                tenant=parent.tenant,
                job_id=child.job_id,
                ids=await self._queue.method_ids(child.method.name, child.method.policy),
                lane=child.lane,
                request=child.request,
                request_id=child.request_id,
                fingerprint=(
                    None
                    if child.request_id is None
                    else fingerprint(await self._queue.fingerprint_key(), child.message)
                ),
                run_at=child.run_at,
                actor=parent.actor,
                # The parent's attempt is the span that the child's attempts are children of.
                traceparent=trace.traceparent,
                tracestate=trace.tracestate,
                labels=child.labels,
                deadline=child.method.policy.deadline,
                parent_job_id=parent.job_id,
            )
            for child in children
        ]


def too_many() -> RowcallError:
    """The error of a handler that submits more jobs than it may."""
    return RowcallError(
        ErrorReason.ERROR_REASON_CHILD_REFUSED,
        f"A handler may submit {MAX_CHILDREN} jobs. Submit one that submits the others, or several each time.",
    )


def refusal(error: ChildRefusedError, children: list[Child]) -> RowcallError:
    """What the parent failed of when the shard refused a child."""
    if error.reason != ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED:
        return error
    name, key, there = "", "", error.metadata.get("operation", "")
    for child in children:
        if error.submission is not None and child.job_id == error.submission.job_id:
            name, key = child.method.name, child.request_id or ""
    return RowcallError(
        ErrorReason.ERROR_REASON_CHILD_REFUSED,
        f"The handler submitted a job of {name} with the request id {key!r}, which names {there} with another request. "
        "Neither was kept. Use another request id for another request.",
        metadata={"method": name, "request_id": key},
    )


def child_name(parent: ClaimedJob, child: Child) -> str:
    """The name of a child's operation."""
    return operation_name(parent.tenant, child.job_id)


def _refused(name: str, why: str, cause: RowcallError | None = None) -> RowcallError:
    return RowcallError(
        ErrorReason.ERROR_REASON_CHILD_REFUSED,
        f"The handler submitted a job of {name}: {why}",
        metadata={"method": name},
        details=() if cause is None else cause.details,
    )


def _checked_key(name: str, key: object) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_CHARS or "\x00" in key or not _is_text(key):
        raise _refused(name, f"a request id is a text of 1 to {MAX_KEY_CHARS} characters")
    return key


def _checked_lane(method: JobMethod, priority: object) -> int:
    if priority is None:
        return method.policy.priority
    if not isinstance(priority, int) or isinstance(priority, bool) or priority not in LANES:
        raise _refused(method.name, f"its priority is one of rowcall.options.v1.Priority, 1 to 4, not {priority!r}")
    return priority


def _checked_time(name: str, run_at: object) -> datetime | None:
    if run_at is None:
        return None
    if not isinstance(run_at, datetime) or run_at.utcoffset() is None:
        raise _refused(name, "run_at is a datetime with a time zone, such as datetime.now(UTC) + timedelta(hours=1)")
    if not _EARLIEST <= run_at <= _LATEST:
        raise _refused(name, f"run_at lies between {_EARLIEST.year} and {_LATEST.year}")
    return run_at


def _checked_labels(name: str, labels: Mapping[str, str]) -> Mapping[str, str]:
    if len(labels) > MAX_LABELS:
        raise _refused(name, f"it has {len(labels)} labels and may have {MAX_LABELS}")
    for key, value in cast("Mapping[object, object]", labels).items():
        if not isinstance(key, str) or not _LABEL.fullmatch(key):
            raise _refused(
                name, f"{key!r} is no label: lower-case letters, digits, '_', '.' and '-', 63 characters at most"
            )
        if not isinstance(value, str) or len(value) > MAX_KEY_CHARS or "\x00" in value or not _is_text(value):
            raise _refused(name, f"the label {key!r} has a value that is no text of {MAX_KEY_CHARS} characters at most")
    return dict(labels)


def _is_text(value: str) -> bool:
    """Whether UTF-8 has it: no lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
