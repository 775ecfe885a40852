"""From what a caller sent to what can be submitted: decoded, checked, under one key. Called by `job_calls` and `services.jobs`.

The row keeps the bytes as they came; the decoded message is for the checks and the fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest

from rowcall.catalogue.model import JobMethod
from rowcall.catalogue.requests import decode
from rowcall.errors import RowcallError
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_service_pb2 import JobSpec
from rowcall_gateway.edge.access import Rights
from rowcall_gateway.edge.failures import too_large
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.edge.metadata import EARLIEST, IDEMPOTENCY_KEY, LATEST, MAX_KEY_CHARS, MAX_LABELS, ON_DONE
from rowcall_gateway.edge.offered import Offered

_OPERATION: Final = Operation.DESCRIPTOR.full_name


class Draft(NamedTuple):
    """A call that was checked and may be written."""

    method: JobMethod
    """What is called."""
    request: bytes
    """The request as it came over the wire."""
    message: Message
    """The request decoded."""
    request_id: str | None
    """Its idempotency key."""
    lane: int
    """1 URGENT to 4 LOW."""
    run_at: datetime | None
    """Not before this time (aware); None: at once."""
    fairness_key: str | None
    """Shares the tenant's turn within the tenant."""
    labels: Mapping[str, str]
    """To find the job by."""
    on_done: JobMethod | None
    """The method of the job that is submitted when this one has ended."""


class Drafts:
    """Makes drafts of calls of what is offered."""

    def __init__(self, offered: Offered, rights: Rights, *, max_request_bytes: int) -> None:
        self._offered = offered
        self._rights = rights
        self._limit = max_request_bytes

    def of_call(self, method: JobMethod, request: bytes, call: IncomingCall) -> Draft:
        """The draft of a call of a job method.

        Raises:
            RowcallError: UNDECODABLE_REQUEST, INVALID_REQUEST, REQUEST_ID_MISMATCH, INVALID_METADATA; why the caller may
                not call the method that is to follow.
        """
        metadata = call.metadata
        message = decode(method, request)
        key = metadata.idempotency_key
        if method.has_request_id:
            key = _one_key(key, _own_key(method, message))
        _check_key(key, "request_id")
        method.validator.check(message)
        return Draft(
            method,
            request,
            message,
            key,
            metadata.priority or method.policy.priority,
            metadata.run_at,
            metadata.fairness_key,
            metadata.labels,
            None if metadata.on_done is None else self._on_done(call),
        )

    def of_spec(self, spec: JobSpec, call: IncomingCall, *, path: str, key: str | None) -> Draft:
        """The draft of a job that is submitted generically; what its spec leaves open, the metadata says.

        Args:
            spec: The call, its own rules checked already.
            call: What it came in.
            path: Where the spec is in the message: "job", "jobs[3]".
            key: The idempotency key of the metadata, where that can be meant for this job.

        Raises:
            RowcallError: UNKNOWN_METHOD, REQUEST_TYPE_MISMATCH, REQUEST_TOO_LARGE, UNDECODABLE_REQUEST,
                INVALID_REQUEST, REQUEST_ID_MISMATCH, INVALID_METADATA; why the caller may not call the method, or the one
                that is to follow.
        """
        metadata = call.metadata
        method = self._offered.catalogue.method(spec.method)
        if method is None:
            name = spec.method.removeprefix("/")
            raise RowcallError(
                ErrorReason.ERROR_REASON_UNKNOWN_METHOD,
                f"No image of this gateway has the method {name!r} of {path}, or it is not a job type.",
                metadata={"method": name},
            )
        # To submit is to call: by another way than its own, the same callers.
        self._rights.check(call.principal, method.name, field=f"{path}.method")
        actual = spec.request.type_url.rpartition("/")[2]
        if actual != method.request_type:
            raise RowcallError(
                ErrorReason.ERROR_REASON_REQUEST_TYPE_MISMATCH,
                f"{path}.request is a {actual or 'message of no type'}; {method.name} takes a {method.request_type}.",
                metadata={"expected": method.request_type, "actual": actual},
            )
        request = spec.request.value
        if len(request) > self._limit:
            raise too_large(len(request), self._limit, f"{path}.request")
        message = decode(method, request)
        found = _one_key(key, spec.request_id, _own_key(method, message))
        _check_key(found, f"{path}.request_id")
        check_text(spec.fairness_key, f"{path}.fairness_key")
        for name, value in spec.labels.items():
            check_text(value, f"{path}.labels[{name!r}]")
        labels = {**metadata.labels, **spec.labels}
        if len(labels) > MAX_LABELS:
            raise invalid(f"{path}.labels", f"has {len(labels)} labels with the metadata's; {MAX_LABELS} are possible")
        method.validator.check(message, prefix=f"{path}.request")
        if spec.on_done:
            on_done, wrong = self._follow_up(spec.on_done)
            if on_done is None:
                raise invalid(f"{path}.on_done", wrong)
            self._rights.check(call.principal, on_done.name, field=f"{path}.on_done")
        else:
            on_done = self._on_done(call)
        return Draft(
            method=method,
            request=request,
            message=message,
            request_id=found,
            lane=spec.priority or metadata.priority or method.policy.priority,
            run_at=_run_time(spec, path) or metadata.run_at,
            fairness_key=spec.fairness_key or metadata.fairness_key,
            labels=labels,
            on_done=on_done,
        )

    def _on_done(self, call: IncomingCall) -> JobMethod | None:
        """The method that the metadata wants to follow the job."""
        if call.metadata.on_done is None:
            return None
        method, wrong = self._follow_up(call.metadata.on_done)
        if method is None:
            raise RowcallError(
                ErrorReason.ERROR_REASON_INVALID_METADATA,
                f"The metadata {ON_DONE} {wrong}.",
                metadata={"key": ON_DONE},
            )
        self._rights.check(call.principal, method.name, field=ON_DONE)
        return method

    def _follow_up(self, name: str) -> tuple[JobMethod | None, str]:
        """The method of a follow-up job, or what is wrong with its name and what to do."""
        method = self._offered.catalogue.method(name)
        if method is None:
            return None, (
                "names no job type that this gateway serves; write package.Service/Method, and check the images that "
                "the gateway was given"
            )
        if method.request_type != _OPERATION:
            return None, (
                f"names a method that takes a {method.request_type}; a follow-up gets the finished operation, so name "
                f"one that takes a {_OPERATION}"
            )
        return method, ""

    def of_specs(self, specs: Sequence[JobSpec], call: IncomingCall) -> list[Draft]:
        """The drafts of many jobs that are submitted together.

        Raises:
            RowcallError: As `of_spec`; INVALID_REQUEST with the violations of all of them.
        """
        drafts: list[Draft] = []
        violations = BadRequest()
        for index, spec in enumerate(specs):
            try:
                drafts.append(self.of_spec(spec, call, path=f"jobs[{index}]", key=None))
            except RowcallError as error:
                if error.reason != ErrorReason.ERROR_REASON_INVALID_REQUEST:
                    raise
                for detail in error.details:
                    if isinstance(detail, BadRequest):
                        violations.field_violations.extend(detail.field_violations)
        if violations.field_violations:
            raise RowcallError(
                ErrorReason.ERROR_REASON_INVALID_REQUEST,
                f"{len(specs) - len(drafts)} of {len(specs)} jobs break rules; nothing was submitted. Mend what "
                "BadRequest lists and call again.",
                details=[violations],
            )
        return drafts


def _own_key(method: JobMethod, message: Message) -> str | None:
    """The request_id of the message itself (AIP-155)."""
    key: str | None = getattr(message, "request_id") if method.has_request_id else None  # noqa: B009  a dynamic class
    return key


def _one_key(*keys: str | None) -> str | None:
    """The one key among those given; two that differ cannot both be meant."""
    found = {key for key in keys if key}
    if len(found) > 1:
        raise RowcallError(
            ErrorReason.ERROR_REASON_REQUEST_ID_MISMATCH,
            f"The {IDEMPOTENCY_KEY} and the message's request_id differ; send one of them, or the same in both.",
        )
    return found.pop() if found else None


def _check_key(key: str | None, path: str) -> None:
    if key is not None:
        if len(key) > MAX_KEY_CHARS:
            raise invalid(path, f"has {len(key)} characters; it may have {MAX_KEY_CHARS}")
        check_text(key, path)


def check_text(text: str, path: str) -> None:
    """Refuses a text that cannot be stored.

    Raises:
        RowcallError: INVALID_REQUEST.
    """
    # Protobuf has it, Postgres has not.
    if "\0" in text:
        raise invalid(path, "has the character U+0000, which cannot be stored")


def _run_time(spec: JobSpec, path: str) -> datetime | None:
    if not spec.HasField("run_time"):
        return None
    try:
        time = spec.run_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        time = None
    if time is None or not EARLIEST <= time <= LATEST:
        raise invalid(f"{path}.run_time", f"is not a time from {EARLIEST:%Y} to {LATEST:%Y}")
    return time


def invalid(field: str, what: str) -> RowcallError:
    """A field of a request that no rule of its message speaks of.

    Args:
        field: Where in the request.
        what: What is wrong with it.
    """
    return RowcallError(
        ErrorReason.ERROR_REASON_INVALID_REQUEST,
        f"{field} {what}.",
        details=[BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=what)])],
    )


def keyed(drafts: Iterable[Draft]) -> bool:
    """Whether every one of these calls has a key, so that all may be repeated."""
    return all(draft.request_id is not None for draft in drafts)
