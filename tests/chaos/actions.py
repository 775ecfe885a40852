"""What a run leaves of the actions that callers have begun, and what is wrong with it: whatever belongs to one carries its caller's trace id,
and all that the test knows of is there. `tests.support.traces` holds spans against rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import psycopg
from google.rpc.status_pb2 import Status

from rowcall.errors import read_envelope, reason_name
from rowcall.names import operation_name
from rowcall.queue.model import JobRow
from rowcall.tracing import TraceContext
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import AttemptOutcome
from tests.chaos import family
from tests.fix_cluster import Cluster
from tests.fix_worker import Calls
from tests.support.collector import Received
from tests.support.traces import ended_attempts, faults

ABOUT_A_CALL: Final = ("job", "request_id", "attempt")
"""The fields of log lines that say which call or job they are about."""
_CANCELLED: Final = reason_name(ErrorReason.ERROR_REASON_JOB_CANCELLED)
_PAGE: Final = 1000
"""Jobs that are read at a time."""


class Made(NamedTuple):
    """A job that must be there."""

    method: str
    """Of the probe: "Echo"."""
    attempt: int
    """Its last attempt's number; those that were lost with their worker do not count."""
    state: int
    """rowcall.v1.JobState."""


@dataclass(slots=True)
class Asked:
    """An action: a call, made until it was answered."""

    caller: TraceContext
    """What it sent along."""
    tenant: str
    request_id: str
    jobs: Sequence[Made]
    """What must have come of it."""
    gateways: set[int] = field(default_factory=set)
    """Which of the gateways, one after another, it was made to."""
    told: list[str] = field(default_factory=list)
    """The trace ids of errors that the caller got; "": one that has none."""


class Act(NamedTuple):
    """What an operator did to a job."""

    caller: TraceContext
    action: str
    target: str


class Audited(NamedTuple):
    """A row of the audit."""

    action: str
    target: str
    trace_id: str | None


class Met(NamedTuple):
    """A row of an incident."""

    method: str
    trace_id: str | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it, gathered when nothing runs any more."""

    asked: Sequence[Asked]
    acts: Sequence[Act]
    rows: Sequence[JobRow]
    """Every job, live and finished."""
    lines: Sequence[Mapping[str, Any]]
    """Every log line of gateways and workers."""
    audit: Sequence[Audited]
    incidents: Sequence[Met]
    spans: Sequence[Received]
    killed_workers: Collection[str] = ()
    """Their names: what they had not sent yet is lost with them."""
    killed_gateways: frozenset[int] = frozenset()
    """Likewise, as `Asked.gateways` has them."""

    def of(self, asked: Sequence[Asked]) -> Evidence:
        """What belongs to some actions."""
        theirs = {each.caller.trace_id for each in asked}
        rows = [row for row in self.rows if _trace_of(row) in theirs]
        names = {_name(row) for row in rows}
        acts = [act for act in self.acts if act.target in names]
        traces = theirs | {act.caller.trace_id for act in acts}
        return replace(
            self,
            asked=asked,
            acts=acts,
            rows=rows,
            lines=[line for line in self.lines if line.get("trace_id") in traces],
            audit=[each for each in self.audit if each.target in names],
            incidents=[each for each in self.incidents if each.trace_id in theirs],
            spans=[each for each in self.spans if each.trace_id in traces],
        )


def ask(cluster: Cluster, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    """What the shards answer, one after another."""
    found: list[tuple[Any, ...]] = []
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            found += connection.execute(query.encode(), arguments).fetchall()
    return found


async def all_rows(cluster: Cluster, calls: Calls) -> list[JobRow]:
    """Every job of every shard, live and finished."""
    keys = await asyncio.to_thread(ask, cluster, "select tenant, job_id from rowcall.jobs")
    rows: list[JobRow] = []
    for shard in cluster.shards:
        for first in range(0, len(keys), _PAGE):
            rows += (await calls.store(shard).read(keys[first : first + _PAGE])).values()
    assert len(rows) == len(keys)
    return rows


def wrong(evidence: Evidence) -> list[str]:
    """What is wrong; empty: nothing is."""
    return [
        *_wrong_rows(evidence),
        *_wrong_errors(evidence),
        *_wrong_lines(evidence),
        *_wrong_records(evidence),
        *_wrong_spans(evidence),
    ]


def nodes(rows: Sequence[JobRow], acts: Sequence[Act]) -> Counter[tuple[str, str]]:
    """The nodes that a look at an action must show of its jobs and of what operators did to them: the job that each is of, and its kind."""
    found: Counter[tuple[str, str]] = Counter()
    for row in rows:
        name = _name(row)
        ended_last = row.done and row.worker is not None
        found[name, "JOB"] += 1
        found[name, "ATTEMPT"] += len(row.attempts) + ended_last
    found.update((act.target, "OPERATOR") for act in acts)
    return +found


def _name(row: JobRow) -> str:
    return operation_name(row.tenant, row.job_id)


def _trace_of(row: JobRow) -> str | None:
    return None if row.traceparent is None else row.traceparent[3:35]


def _wrong_rows(evidence: Evidence) -> Iterator[str]:
    known = {each.caller.trace_id: each for each in evidence.asked}
    made: dict[str, list[JobRow]] = {trace_id: [] for trace_id in known}
    for row in evidence.rows:
        trace_id = _trace_of(row)
        if trace_id is None or trace_id not in known or known[trace_id].tenant != row.tenant:
            yield f"{_name(row)}: its trace {trace_id} is no caller's of its tenant"
        else:
            made[trace_id].append(row)
    for trace_id, rows in made.items():
        has = Counter(Made(row.method.rpartition("/")[2], row.attempt, row.state) for row in rows)
        if has != Counter(known[trace_id].jobs):
            yield f"{trace_id}: its jobs are {has}"
        ids = {row.job_id for row in rows}
        ended = {span_id for row in rows for span_id, _ in ended_attempts(row)}
        for row in rows:
            if row.parent_job_id is None:
                continue
            if row.parent_job_id not in ids:
                yield f"{_name(row)}: what submitted it is not of its trace"
            if row.traceparent is not None and row.traceparent[36:52] not in ended:
                yield f"{_name(row)}: no attempt of its trace submitted it"


def _wrong_errors(evidence: Evidence) -> Iterator[str]:
    for row in evidence.rows:
        for error in (row.error, *(each.error for each in row.attempts)):
            info = None if error is None else read_envelope(Status.FromString(error))
            told: str | None = "" if info is None else info.metadata["trace_id"]
            if info is not None and info.reason == _CANCELLED:
                # The shard has written it, and it gets its trace where it is read: `Asked.told`.
                told = told or _trace_of(row)
            if error is not None and told != _trace_of(row):
                yield f"{_name(row)}: an error of it is not of its trace: {info}"
    for each in evidence.asked:
        if set(each.told) - {each.caller.trace_id}:
            yield f"{each.request_id}: it was told of an error with the traces {each.told}"


def _wrong_lines(evidence: Evidence) -> Iterator[str]:
    jobs = {_name(row): _trace_of(row) for row in evidence.rows}
    calls = {each.request_id: each.caller.trace_id for each in evidence.asked}
    operators = {act.caller.trace_id for act in evidence.acts}
    logged: set[tuple[str, str, int | None]] = set()
    looked: Counter[tuple[str, int]] = Counter()
    for line in evidence.lines:
        if not any(line.get(name) for name in ABOUT_A_CALL):
            continue
        job, request_id = line.get("job"), line.get("request_id")
        trace_id = jobs.get(job or "") or calls.get(request_id or "")
        if line.get("trace_id") != trace_id and line.get("trace_id") not in operators:
            yield f"a line is not of its trace {trace_id}: {line}"
        logged.add((str(job or request_id), line["service"], line.get("attempt")))
        if line["event"] == family.LOOKED:
            looked[line["job"], line["attempt"]] += 1
    for each in evidence.asked:
        its = [name for name, trace_id in jobs.items() if trace_id == each.caller.trace_id]
        if not each.gateways & evidence.killed_gateways and not any(
            (name, "gateway", None) in logged for name in (*its, each.request_id)
        ):
            yield f"{each.request_id}: the gateway has no line of it"
    for row in evidence.rows:
        for number, worker in _attempts(row):
            if worker in evidence.killed_workers:
                continue
            if (_name(row), "worker", number) not in logged:
                yield f"{_name(row)}: no worker has a line of attempt {number}"
            # The handler's own, and its thread's.
            if row.method.endswith("/Echo") and looked[_name(row), number] < 2:
                yield f"{_name(row)}: what the handler of attempt {number} logged is not of its job"


def _attempts(row: JobRow) -> Iterator[tuple[int, str]]:
    """Number and worker of those that have ended with an outcome of their own."""
    for each in row.attempts:
        if each.worker is not None and each.outcome != AttemptOutcome.ATTEMPT_OUTCOME_LOST:
            yield each.attempt, each.worker
    if row.done and row.worker is not None:
        yield row.attempt, row.worker


def _wrong_records(evidence: Evidence) -> Iterator[str]:
    done = Counter(Audited(act.action, act.target, act.caller.trace_id) for act in evidence.acts)
    for each in (Counter(evidence.audit) - done).keys() | (done - Counter(evidence.audit)).keys():
        yield f"the audit and what operators did differ: {each}"
    failed = {(row.method, _trace_of(row)) for row in evidence.rows if row.error or any(a.error for a in row.attempts)}
    for met in evidence.incidents:
        if (met.method, met.trace_id) not in failed:
            yield f"an incident of {met.method} is of the trace {met.trace_id}, where nothing of it failed"


def _wrong_spans(evidence: Evidence) -> Iterator[str]:
    lost = {
        _trace_of(row)
        for row in evidence.rows
        if any(each.outcome == AttemptOutcome.ATTEMPT_OUTCOME_LOST for each in row.attempts)
    }
    told = {each.span_id for each in evidence.spans}
    # What a handler had traced when its worker was killed hangs on an attempt that nobody could tell of any more.
    spans = [
        each
        for each in evidence.spans
        if not (each.scope == family.SCOPE and each.trace_id in lost and each.parent_id not in told)
    ]
    callers = [*(each.caller for each in evidence.asked), *(act.caller for act in evidence.acts)]
    yield from faults(spans, evidence.rows, callers=callers)
    sampled = {each.caller.trace_id: each for each in evidence.asked if each.caller.sampled}
    calls = {each.trace_id for each in spans if each.span.kind == each.span.SPAN_KIND_SERVER}
    for trace_id, asked in sampled.items():
        if not asked.gateways & evidence.killed_gateways and trace_id not in calls:
            yield f"{trace_id}: its call has no span"
    for row in evidence.rows:
        workers = {each.span_id: each.worker for each in row.attempts} | {row.span_id: row.worker}
        for span_id, ended in ended_attempts(row):
            wanted = ended.trace_id in sampled or ended.failed or row.attempts
            if wanted and span_id not in told and workers[span_id] not in evidence.killed_workers:
                yield f"{ended.name}: its attempt {span_id} has no span"
        if row.parent_job_id is None and _trace_of(row) in sampled and row.traceparent is not None:
            asked = sampled[row.traceparent[3:35]]
            if not asked.gateways & evidence.killed_gateways and row.traceparent[36:52] not in told:
                yield f"{_name(row)}: its submission has no span"
