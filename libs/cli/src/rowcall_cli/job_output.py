"""What commands print of jobs: one with everything that is known of it, many in a table. Used by `jobs`, `job_actions` and `tenants`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import cast

from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.json_format import Error as JsonError
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from rowcall.options.v1 import job_pb2 as options_pb2
from rowcall.v1 import job_pb2
from rowcall.v1.job_service_pb2 import FailureGroup
from rowcall_cli.gateway import explain_status
from rowcall_cli.output import result_fields, result_json, result_table
from rowcall_cli.redaction import to_json
from rowcall_cli.reflection import Types

JOB_COLUMNS = ("name", "method", "state", "attempt", "created", "finished", "error")
ATTEMPT_COLUMNS = ("attempt", "outcome", "started", "seconds", "worker", "error", "raised at")
WAITING_COLUMNS = ("name", "method", "queue", "state", "created", "waits for")
GROUP_CELLS = ("method", "error", "first", "last", "fingerprint", "sample")
"""Of dead letters that have in common what they died of, behind how many there are."""
PROSE = ("error", "waits for")
"""Columns of sentences."""

_COUNTED = 1000
"""How far a gateway counts the jobs before one that waits."""
_NOT_SERVED = (job_pb2.WAIT_REASON_METHOD_NOT_SERVED, job_pb2.WAIT_REASON_QUEUE_NOT_SERVED)

_HELD = {
    job_pb2.HOLD_PAUSED: "held: its tenant or method is paused",
    job_pb2.HOLD_SUSPECT: "held: its workers died twice, it runs apart from others",
    job_pb2.HOLD_LIMITED: "held: as many run as its limit allows",
}


def group_cells(group: FailureGroup) -> tuple[str, ...]:
    """What GROUP_CELLS names."""
    return (
        group.method,
        explain_status(group.error),
        time_text(group.first_fail_time),
        time_text(group.last_fail_time),
        group.error_fingerprint,
        group.sample,
    )


def print_job(
    job: job_pb2.Job,
    types: Types,
    *,
    as_json: bool,
    wide: bool = False,
) -> None:
    """Print one job: for a script as JSON, for a person with its attempts; payloads where it has them.

    Args:
        job: As the gateway sent it.
        types: Know the payloads' types.
        as_json: For a script.
        wide: Attempts as lines, however long.
    """
    if as_json:
        result_json(job_json(job, types))
        return
    result_fields(
        [
            ("name", job.name),
            ("method", job.method),
            ("state", _standing(job)),
            *(("waits for", wait) for wait in _waits(job)),
            ("queue", f"{job.queue}, {_priority(job.priority)}"),
            ("attempt", f"{job.attempt} of {job.max_attempts}"),
            ("created", time_text(job.create_time)),
            ("not before", time_text(job.run_time)),
            ("started", time_text(job.start_time)),
            ("finished", time_text(job.finish_time)),
            ("deadline", time_text(job.deadline)),
            ("progress", _progress(job.progress) if job.HasField("progress") else ""),
            ("lost", f"{job.lost_attempts} attempts, with their workers" if job.lost_attempts else ""),
            ("replayed", f"{job.replays} times" if job.replays else ""),
            ("follows", job.parent),
            ("actor", job.actor),
            ("key", job.request_id),
            ("trace", job.trace_id),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))),
            ("error", explain_status(job.error) if job.HasField("error") else ""),
            ("fingerprint", job.error_fingerprint),
            ("resolved", _resolution(job.resolution) if job.HasField("resolution") else ""),
        ]
    )
    if job.attempts:
        result_table(ATTEMPT_COLUMNS, [_attempt(one) for one in job.attempts], prose=PROSE, wide=wide)
    if job.HasField("request"):
        result_json({"request": payload_json(job.request, types, job.method)})
    if job.HasField("response"):
        result_json({"response": payload_json(job.response, types, job.method)})


def _attempt(attempt: job_pb2.Attempt) -> tuple[str, ...]:
    seconds = ""
    if attempt.HasField("start_time") and attempt.HasField("end_time"):
        seconds = f"{(_local(attempt.end_time) - _local(attempt.start_time)).total_seconds():.3f}"
    return (
        str(attempt.attempt),
        _word(job_pb2.AttemptOutcome.DESCRIPTOR, attempt.outcome, "ATTEMPT_OUTCOME_"),
        time_text(attempt.start_time),
        seconds,
        attempt.worker,
        explain_status(attempt.error) if attempt.HasField("error") else "",
        attempt.location,
    )


def message_json(message: Message) -> dict[str, object]:
    """A message for a script; there is nothing in it of a type that this command does not know."""
    return cast("dict[str, object]", to_json(message, proto_names=True))


def job_json(job: job_pb2.Job, types: Types) -> Mapping[str, object]:
    """A job for a script. Payloads and the details of errors may be of types that only the gateway knows."""
    rest = job_pb2.Job()
    rest.CopyFrom(job)
    for name in ("error", "request", "response", "attempts"):
        rest.ClearField(name)
    result = message_json(rest)
    if job.attempts:
        result["attempts"] = [_attempt_json(each, types, job.method) for each in job.attempts]
    if job.HasField("error"):
        result["error"] = _status_json(job.error, types, job.method)
    if job.HasField("request"):
        result["request"] = payload_json(job.request, types, job.method)
    if job.HasField("response"):
        result["response"] = payload_json(job.response, types, job.method)
    return result


def payload_json(packed: Any, types: Types, method: str) -> Mapping[str, object]:
    """A payload of a method's job for whoever may see it; for others, what it would be: the gateway left it out."""
    withheld = job_pb2.Withheld()
    if packed.Is(withheld.DESCRIPTOR) and packed.Unpack(withheld):
        return {"withheld": withheld.type, "bytes": withheld.size_bytes}
    return types.render(packed, method)


def job_row(job: job_pb2.Job) -> tuple[str, ...]:
    """A job as a row under JOB_COLUMNS."""
    return (
        job.name,
        job.method,
        _standing(job),
        f"{job.attempt} of {job.max_attempts}",
        time_text(job.create_time),
        time_text(job.finish_time),
        explain_status(job.error) if job.HasField("error") else "",
    )


def waiting_row(job: job_pb2.Job) -> tuple[str, ...]:
    """A job that waits as a row under WAITING_COLUMNS."""
    return (job.name, job.method, job.queue, _standing(job), time_text(job.create_time), "; ".join(_waits(job)))


def state_name(state: job_pb2.JobState.ValueType) -> str:
    """A state as people write it."""
    return _word(job_pb2.JobState.DESCRIPTOR, state, "JOB_STATE_")


def time_text(timestamp: Timestamp) -> str:
    """A time in the terminal's own zone; empty if there is none."""
    if timestamp == Timestamp():
        return ""
    return _local(timestamp).isoformat(sep=" ", timespec="milliseconds")


def _attempt_json(attempt: job_pb2.Attempt, types: Types, method: str) -> Mapping[str, object]:
    rest = job_pb2.Attempt()
    rest.CopyFrom(attempt)
    rest.ClearField("error")
    result = message_json(rest)
    if attempt.HasField("error"):
        result["error"] = _status_json(attempt.error, types, method)
    return result


def _status_json(status: Status, types: Types, method: str) -> Mapping[str, object]:
    result = message_json(Status(code=status.code, message=status.message))
    if status.details:
        result["details"] = [_detail_json(each, types, method) for each in status.details]
    return result


def _detail_json(detail: Any, types: Types, method: str) -> Mapping[str, object]:
    if detail.Is(job_pb2.Withheld.DESCRIPTOR):
        return payload_json(detail, types, method)
    try:
        return message_json(detail)
    except (TypeError, ValueError, DecodeError, JsonError):  # not one of google.rpc's, or not what it says
        return types.render(detail, method)


def _standing(job: job_pb2.Job) -> str:
    words = [state_name(job.state)]
    words += [_HELD.get(each, "held") for each in job.holds]
    if job.cancel_requested:
        words.append("cancel requested")
    return ", ".join(words)


def _waits(job: job_pb2.Job) -> list[str]:
    return [_wait(wait) for wait in job.waits]


def _wait(wait: job_pb2.Wait) -> str:
    """Something that a job waits for, in a line."""
    words = wait.description.removesuffix(".")
    words = words[:1].lower() + words[1:]
    since = f", since {time_text(wait.start_time)}" if wait.HasField("start_time") else ""
    if wait.reason in _NOT_SERVED:
        return f"{words}{since}, when {wait.worker} was gone" if since else f"{words}: none ever has"
    if wait.HasField("ahead"):
        if not wait.ahead:
            return f"{words}: it is next"
        more = " or more" if wait.ahead >= _COUNTED else ""
        return f"{words}: {wait.ahead}{more} before it"
    by = f", by {wait.actor}" if wait.actor else ""
    note = f": {wait.note}" if wait.note else ""
    return f"{words}{since}{by}{note}"


def _progress(progress: job_pb2.Progress) -> str:
    words = [f"{progress.fraction:.0%}"] if progress.HasField("fraction") else []
    words += [progress.message] if progress.message else []
    return f"{': '.join(words)} ({time_text(progress.update_time)})"


def _resolution(resolution: job_pb2.Resolution) -> str:
    by = f" by {resolution.actor}" if resolution.actor else ""
    note = f": {resolution.note}" if resolution.note else ""
    return f"{time_text(resolution.resolve_time)}{by}{note}"


def _priority(priority: options_pb2.Priority.ValueType) -> str:
    return _word(options_pb2.Priority.DESCRIPTOR, priority, "PRIORITY_")


def _word(kind: EnumDescriptor, value: int, prefix: str) -> str:
    """An enum's value as people write it; its number where the gateway is newer than this command."""
    found = kind.values_by_number.get(value)
    return str(value) if found is None else found.name.removeprefix(prefix).lower()


def _local(timestamp: Timestamp) -> datetime:
    return datetime.fromtimestamp(timestamp.ToNanoseconds() / 1e9).astimezone()
