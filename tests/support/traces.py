"""What is wrong with spans that were received, held against each other and against the rows of the jobs that they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

from rowcall.names import operation_name
from rowcall.queue.model import JobRow
from rowcall.tracing import TraceContext
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from tests.support.collector import Received

_SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
_MOMENT = 1_000_000
"""Nanoseconds by which clocks of two processes of one machine, each told from its own moments, may differ."""


class Ended(NamedTuple):
    """How an attempt ended, as its row says."""

    name: str
    """Of its operation."""
    trace_id: str
    code: str
    """Of its error; "OK": it has none, and the job has an answer; "": neither."""
    failed: bool


def ended_attempts(row: JobRow) -> Iterator[tuple[str, Ended]]:
    """The attempts of a job that have ended, by their span ids."""
    name = operation_name(row.tenant, row.job_id)
    trace_id = "" if row.traceparent is None else row.traceparent[3:35]

    def ended(error: bytes | None, otherwise: str, *, cancelled: bool) -> Ended:
        code = otherwise if error is None else Code.Name(Code.ValueType(Status.FromString(error).code))
        return Ended(name, trace_id, code, error is not None and not cancelled)

    for each in row.attempts:
        if each.span_id is not None:
            cancelled = each.outcome == AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
            yield each.span_id, ended(each.error, "", cancelled=cancelled)
    if row.span_id is not None:
        yield row.span_id, ended(row.error, "OK", cancelled=row.state == JobState.JOB_STATE_CANCELLED)


def faults(spans: Sequence[Received], rows: Iterable[JobRow], *, callers: Iterable[TraceContext] = ()) -> list[str]:
    """What is wrong with spans; empty: nothing is.

    Args:
        spans: All that were received.
        rows: The jobs that they are about.
        callers: What callers have sent along: the spans are theirs, and received nowhere.
    """
    # Of what is known beside the spans, the trace it is of.
    known = {each.span_id: each.trace_id for each in callers}
    attempts: dict[str, Ended] = {}
    for row in rows:
        if row.traceparent is not None:
            # The submission's, which the row stands for where it was not told.
            known[row.traceparent[36:52]] = row.traceparent[3:35]
        attempts |= ended_attempts(row)
    by_id = {each.span_id: each for each in spans}
    known |= {span_id: ended.trace_id for span_id, ended in attempts.items()}
    found = [] if len(by_id) == len(spans) else ["an id is two spans'"]
    for each in spans:
        where = f"{each.span.name} ({each.span_id})"
        found += [f"{where}: {fault}" for fault in _faults_alone(each)]
        above = by_id.get(each.parent_id)
        if above is not None:
            found += [f"{where}: {fault}" for fault in _faults_below(each, above)]
        elif each.parent_id and known.get(each.parent_id) != each.trace_id:
            found.append(f"{where}: its parent {each.parent_id} is neither a span nor a row of its trace")
        if each.span_id in attempts:
            found += [f"{where}: {fault}" for fault in _faults_by_row(each, attempts[each.span_id])]
    return found


def _faults_alone(each: Received) -> Iterator[str]:
    span = each.span
    if (len(span.trace_id), len(span.span_id), len(span.parent_span_id)) not in {(16, 8, 0), (16, 8, 8)}:
        yield "an id is not of its size"
    if not any(span.trace_id) or not any(span.span_id):
        yield "an id is zero"
    if not 0 < span.start_time_unix_nano <= span.end_time_unix_nano:
        yield "its times are not in order"
    if each.scope == "rowcall.gateway" and span.kind == span.SPAN_KIND_SERVER:
        code, reason = each.attributes["rpc.response.status_code"], each.attributes.get("rowcall.reason")
        failed = code in _SERVER_ERRORS and reason != "STILL_RUNNING"
        if failed is not (span.status.code == SpanStatus.STATUS_CODE_ERROR):
            yield f"its status is not that of {code}"


def _faults_below(each: Received, above: Received) -> Iterator[str]:
    if each.trace_id != above.trace_id:
        yield "its parent is of another trace"
    if each.span.start_time_unix_nano < above.span.start_time_unix_nano - _MOMENT:
        yield "it began before its parent"
    # A child's attempt comes behind that which submitted it.
    within = each.scope == above.scope and each.span.kind != each.span.SPAN_KIND_CONSUMER
    if within and each.span.end_time_unix_nano > above.span.end_time_unix_nano + _MOMENT:
        yield "it ended after its parent"


def _faults_by_row(each: Received, row: Ended) -> Iterator[str]:
    if each.trace_id != row.trace_id:
        yield f"its row's trace is {row.trace_id}"
    if each.attributes["rowcall.operation"] != row.name:
        yield f"its row is {row.name}"
    if each.attributes.get("rpc.response.status_code", "") != row.code:
        yield f"its row's code is {row.code}"
    if (each.span.status.code == SpanStatus.STATUS_CODE_ERROR) is not row.failed:
        yield "its status is not its row's"
