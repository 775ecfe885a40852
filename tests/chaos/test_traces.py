"""One trace id from the caller through rows, attempts, children, spans, errors, log lines, the audit and incidents, over retries and the kill of
a worker and of a gateway, on two shards; what is exported of it, received over OTLP and held against the rows; and the query of docs/actions.md."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc
import psycopg
import pytest
from google.longrunning.operations_pb2 import GetOperationRequest
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from rowcall.errors import read_envelope, status_of
from rowcall.names import operation_name
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.queue.model import JobRow
from rowcall.tracing import TraceContext
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall.v1.job_service_pb2 import CancelJobRequest, RetryJobRequest
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from tests.chaos import family
from tests.chaos.actions import Act, Asked, Audited, Evidence, Made, Met, all_rows, ask, nodes, wrong
from tests.chaos.load import CHANNEL, PASSING
from tests.fix_cluster import Cluster
from tests.fix_pooler import PASSWORD
from tests.fix_services import ServiceProcess, Services
from tests.fix_worker import Calls
from tests.support.collector import Collector, Received
from tests.support.pages import queries
from tests.support.ports import free_port
from tests.support.scale import scaled, tell
from tests.support.waiting import until

ACTIONS: Final = scaled(240, 10_000)
IN_FLIGHT: Final = scaled(32, 96)
TENANTS: Final = 8
ACTS: Final = scaled(2, 40)
"""How many jobs an operator cancels, and how many are tried again."""
LOOKED_AT: Final = scaled(2, 25)
"""How many actions of each kind are looked at by the page's queries."""
IN_PAGE: Final = "0af7651916cd43dd8448eb211c80319c", "0196a4c5-7a2e-7c3f-9e1b-3f0f5c9d2b11", "acme"
"""The trace, the job and the tenant of the page's examples."""
TO_COME: Final = timedelta(hours=1)
SECONDS: Final = scaled(60, 600)
SHOWN: Final = 20
"""Problems of a run that is not well."""

_SUCCEEDED: Final = JobState.JOB_STATE_SUCCEEDED
_FAILED: Final = JobState.JOB_STATE_FAILED
_RETRIED: Final = Made("Run", 2, _SUCCEEDED)


@dataclass(frozen=True, slots=True)
class Kind:
    """What callers ask for, and what comes of it."""

    request: Message
    jobs: Sequence[Made]
    code: grpc.StatusCode = grpc.StatusCode.OK
    later: bool = False
    """Whether it is to be done in an hour."""

    @property
    def method(self) -> str:
        """Of the probe."""
        return type(self.request).__name__.removesuffix("Request")


LATER: Final = Kind(RunRequest(), [Made("Run", 0, JobState.JOB_STATE_SCHEDULED)], later=True)
FAILS: Final = Kind(
    AwaitRequest(fail_code=Code.INVALID_ARGUMENT), [Made("Await", 1, _FAILED)], grpc.StatusCode.INVALID_ARGUMENT
)
RAISES: Final = Kind(EchoRequest(payload=family.RAISE), [Made("Echo", 3, _FAILED)], grpc.StatusCode.UNKNOWN)
KINDS: Final[Sequence[Kind]] = [
    Kind(EchoRequest(payload=b"x"), [Made("Echo", 1, _SUCCEEDED)]),
    Kind(AwaitRequest(work=Duration(seconds=1)), [Made("Await", 1, _SUCCEEDED)]),
    Kind(RunRequest(fail_code=Code.UNAVAILABLE, fail_attempts=1), [_RETRIED]),
    FAILS,
    RAISES,
    Kind(EchoRequest(payload=family.PARENT), [*[Made("Echo", 1, _SUCCEEDED)] * 3, _RETRIED]),
    LATER,
    Kind(RunRequest(work=Duration(seconds=-1)), [], grpc.StatusCode.INVALID_ARGUMENT),
]


class Callers:
    """Begin actions, each with a trace of its own; every other round asks for its traces to be recorded."""

    def __init__(self, address: str) -> None:
        self.asked: list[Asked] = []
        self.ended = 0
        self.gateway = 0
        """Which of the gateways, one after another, is there."""
        self.restarted = asyncio.Event()
        """That it is another one than at first: the last quarter of the actions waits for it."""
        self._address = address
        self._due = (datetime.now(UTC) + TO_COME).isoformat()

    async def run(self) -> None:
        """Begins all of them, some at a time; each call is made until it is answered."""
        numbers = iter(range(ACTIONS))
        async with grpc.aio.insecure_channel(self._address, options=CHANNEL) as channel, asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(self._caller(channel, numbers))

    async def _caller(self, channel: grpc.aio.Channel, numbers: Iterator[int]) -> None:
        stub = ProbeServiceStub(channel)
        for number in numbers:
            kind = KINDS[number % len(KINDS)]
            each = Asked(
                TraceContext.mint(sampled=number // len(KINDS) % 2 == 0),
                f"tenant-{number // len(KINDS) % TENANTS}",
                f"call-{number}",
                kind.jobs,
            )
            self.asked.append(each)
            if number >= ACTIONS * 3 // 4:
                await self.restarted.wait()
            over = False
            while not over:
                over = await self._call(stub, kind, each)
                if not over:
                    await asyncio.sleep(0.1)
            self.ended += 1

    async def _call(self, stub: Any, kind: Kind, each: Asked) -> bool:
        """Makes a call; whether it is over."""
        metadata = [
            ("rowcall-tenant", each.tenant),
            ("idempotency-key", each.request_id),
            ("traceparent", each.caller.traceparent),
            *([("prefer", "wait=0")] if kind.method == "Run" else []),
            *([("rowcall-run-at", self._due)] if kind.later else []),
        ]
        each.gateways.add(self.gateway)
        code = grpc.StatusCode.OK
        try:
            await getattr(stub, kind.method)(kind.request, timeout=20, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            code, info = error.code(), read_envelope(status_of(error))
            # Of a gateway that was killed nobody can tell but gRPC.
            if info is not None or code not in PASSING:
                each.told.append("" if info is None else info.metadata["trace_id"])
        assert code in {kind.code, *PASSING}, (each, code)
        return code is kind.code


def lines_of(service: ServiceProcess) -> list[dict[str, Any]]:
    """What it logged; the last line of one that was killed may be half of one."""
    return [json.loads(line) for line in list(service.log) if line.startswith("{") and line.endswith("}\n")]


async def operate(address: str, rows: Sequence[JobRow], asked: Sequence[Asked]) -> list[Act]:
    """Cancels the last jobs that are to come, and tries the last ones that have failed again; notes what comes of them."""
    names = {row.traceparent[3:35]: operation_name(row.tenant, row.job_id) for row in rows if row.traceparent}
    acts: list[Act] = []
    async with grpc.aio.insecure_channel(address) as channel:
        jobs, operations = JobServiceStub(channel), OperationsStub(channel)

        async def act(kind: Kind, action: str, call: Callable[[str, Any], Awaitable[object]], state: int) -> None:
            for each in [each for number, each in enumerate(asked) if KINDS[number % len(KINDS)] is kind][-ACTS:]:
                operator = TraceContext.mint()
                target = names[each.caller.trace_id]
                metadata = [("rowcall-tenant", each.tenant), ("traceparent", operator.traceparent)]
                await call(target, metadata)
                acts.append(Act(operator, action, target))
                each.jobs = [kind.jobs[0]._replace(state=state)]
                if state == JobState.JOB_STATE_CANCELLED:
                    request = GetOperationRequest(name=target)
                    operation = await operations.GetOperation(request, timeout=20, metadata=metadata)
                    info = read_envelope(operation.error)
                    each.told.append("" if info is None else info.metadata["trace_id"])

        await act(
            LATER,
            "job.cancel",
            lambda name, metadata: jobs.CancelJob(CancelJobRequest(name=name), timeout=20, metadata=metadata),
            JobState.JOB_STATE_CANCELLED,
        )
        await act(
            FAILS,
            "job.retry",
            lambda name, metadata: jobs.RetryJob(RetryJobRequest(name=name), timeout=20, metadata=metadata),
            _FAILED,
        )
    return acts


async def kill_in_the_middle(cluster: Cluster, worker: ServiceProcess) -> str:
    """Kills a worker that has just begun with something; its name."""
    [name] = [line["worker"] for line in lines_of(worker) if line["event"] == "worker starts"]
    running = (
        "select 1 from rowcall.job j join rowcall.worker w using (worker_id) "
        "where j.state = %s and w.name = %s and j.started_at > clock_timestamp() - interval '0.5 seconds'"
    )

    async def just_begun() -> bool:
        return bool(await asyncio.to_thread(ask, cluster, running, JobState.JOB_STATE_RUNNING, name))

    await until(just_begun, seconds=SECONDS)
    await asyncio.to_thread(worker.kill)
    return str(name)


@pytest.mark.timeout(scaled(240, 1800))
async def test_everything_of_an_action_is_in_its_callers_trace(
    cluster: Cluster, calls: Calls, services: Services, collector: Collector
) -> None:
    variables = {"ROWCALL_TRACES_ASKED": "10000", **collector.variables}
    listen = f"127.0.0.1:{free_port()}"

    def start_worker() -> ServiceProcess:
        return services.worker(*family.ARGUMENTS, ROWCALL_LEASE="3s", **family.VARIABLES, **variables)

    gateways, workers = [services.gateway(listen, **variables)], [start_worker(), start_worker()]
    for service in (*gateways, *workers):
        await asyncio.to_thread(service.ready)
    callers = Callers(listen)

    async def harm() -> str:
        await until(lambda: callers.ended >= ACTIONS // 4, seconds=SECONDS)
        name = await kill_in_the_middle(cluster, workers[0])
        workers.append(start_worker())
        await until(lambda: callers.ended >= ACTIONS // 2, seconds=SECONDS)
        await asyncio.to_thread(gateways[0].kill)
        callers.gateway = 1
        gateways.append(services.gateway(listen, **variables))
        await asyncio.to_thread(gateways[1].ready)
        callers.restarted.set()
        return name

    async with asyncio.TaskGroup() as tasks:
        harmed = tasks.create_task(harm())
        tasks.create_task(callers.run())
    due = datetime.now(UTC) + TO_COME / 2

    async def all_done() -> bool:
        return not await asyncio.to_thread(ask, cluster, "select 1 from rowcall.job where run_at < %s limit 1", due)

    await until(all_done, seconds=SECONDS, every=0.2)
    acts = await operate(listen, await all_rows(cluster, calls), callers.asked)
    await until(all_done, seconds=SECONDS, every=0.2)
    # What is still in their buffers is sent when they end.
    for service in (*workers[1:], gateways[1]):
        assert await asyncio.to_thread(service.end) == 0

    evidence = Evidence(
        callers.asked,
        acts,
        await all_rows(cluster, calls),
        [line for service in (*gateways, *workers) for line in lines_of(service)],
        [
            Audited(*row)
            for row in ask(cluster, "select action, target, trace_id from rowcall.audit where tenant <> ''")
        ],
        [Met(*row) for row in ask(cluster, "select method, trace_id from rowcall.incident")],
        collector.spans,
        killed_workers={harmed.result()},
        killed_gateways=frozenset({0}),
    )
    assert any(map(was_lost, evidence.rows)), "the kill was to come in the middle"
    assert evidence.incidents
    assert evidence.audit
    problems = wrong(evidence)
    for problem in problems[:SHOWN]:
        tell(f"  {problem}")
    assert not problems
    tell(
        f"traces: {len(evidence.asked)} actions, {len(evidence.rows)} jobs, {len(evidence.lines)} log lines, "
        f"{len(evidence.spans)} spans, {len(evidence.audit)} rows of the audit, {len(evidence.incidents)} incidents"
    )
    check_chains(cluster, evidence)
    check_that_each_is_seen(evidence)


def check_chains(cluster: Cluster, evidence: Evidence) -> None:
    """Each of the page's queries returns the whole chain, by the trace of an action and by any of its jobs: of the first and the last
    actions of each kind, which operators had to do with, and of some whose worker was killed."""
    by_trace, by_job = queries("docs/actions.md")
    rows: defaultdict[str, list[JobRow]] = defaultdict(list)
    for row in evidence.rows:
        assert row.traceparent is not None
        rows[row.traceparent[3:35]].append(row)
    count = LOOKED_AT * len(KINDS)
    lost = [each for each in evidence.asked if any(map(was_lost, rows[each.caller.trace_id]))]
    chosen = [*evidence.asked[:count], *evidence.asked[-count:], *lost[:count]]
    with ExitStack() as stack:
        shards = [
            stack.enter_context(
                psycopg.connect(make_conninfo(dsn, user="test_auditor", password=PASSWORD), row_factory=dict_row)
            )
            for dsn in cluster.shards.values()
        ]

        def answer(query: str, *for_example: str) -> list[dict[str, Any]]:
            for example, asked in zip(IN_PAGE, for_example, strict=False):
                query = query.replace(example, asked)
            return [row for shard in shards for row in shard.execute(query.encode())]

        for each in chosen:
            trace_id = each.caller.trace_id
            its = rows[trace_id]
            names = {operation_name(row.tenant, row.job_id) for row in its}
            expected = nodes(its, [act for act in evidence.acts if act.target in names])
            found = answer(by_trace, trace_id)
            assert Counter(chain(found)) == expected, each
            by_kind: Counter[str] = Counter()
            for (_, kind), times in expected.items():
                by_kind[kind] += times
            for row in its:
                told = Counter(node["kind"] for node in answer(by_job, trace_id, str(row.job_id), row.tenant))
                assert {kind: told[kind] for kind in by_kind} == by_kind, each


def chain(found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The jobs, attempts and operators' actions among nodes, each with the job that it is of. A child is below an attempt of its parent."""
    kinds = {node["node"]: node["kind"] for node in found}
    for node in found:
        if node["kind"] == "JOB":
            assert kinds.get(node["parent"]) in {None, "ATTEMPT"}, node
            yield node["node"], "JOB"
        elif node["kind"] in {"ATTEMPT", "OPERATOR"}:
            yield node["parent"], node["kind"]


def was_lost(row: JobRow) -> bool:
    """Whether a worker was killed that ran it."""
    return any(each.outcome == AttemptOutcome.ATTEMPT_OUTCOME_LOST for each in row.attempts)


def check_that_each_is_seen(evidence: Evidence) -> None:
    """Of a run that is well one thing is changed, and that is found: of one action of each kind that came behind the kills, and was to be
    recorded."""
    last = [each for each in evidence.asked if each.caller.sampled][-len(KINDS) :]
    raised = last[KINDS.index(RAISES)].caller.trace_id
    well = replace(evidence.of(last), incidents=[Met("rowcall.probe.v1.ProbeService/Echo", raised)])
    assert wrong(well) == []
    assert {act.action for act in well.acts} == {"job.cancel", "job.retry"}
    assert [name for name, change in CHANGES.items() if not wrong(change(well))] == []


Change = Callable[[Evidence], Evidence]
_OTHER: Final = TraceContext.mint()


def _first(items: Sequence[Any], fits: Callable[[Any], bool], change: Callable[[Any], Any]) -> list[Any]:
    """The items, of which the first that fits is changed."""
    place = next(place for place, each in enumerate(items) if fits(each))
    return [*items[:place], change(items[place]), *items[place + 1 :]]


def _row(**changes: object) -> Change:
    """Changes a job that has failed."""
    return lambda well: replace(
        well, rows=_first(well.rows, lambda row: row.state == _FAILED, lambda row: replace(row, **changes))
    )


def _attempt(**changes: object) -> Change:
    """Changes an attempt of a job that was tried again."""
    return lambda well: replace(
        well,
        rows=_first(
            well.rows,
            lambda row: bool(row.attempts),
            lambda row: replace(row, attempts=[replace(row.attempts[0], **changes), *row.attempts[1:]]),
        ),
    )


def _adopted(well: Evidence) -> Evidence:
    """A child that none of its trace's attempts has submitted."""

    def change(row: JobRow) -> JobRow:
        assert row.traceparent is not None
        return replace(row, traceparent=f"{row.traceparent[:36]}{_OTHER.span_id}{row.traceparent[52:]}")

    return replace(well, rows=_first(well.rows, lambda row: row.parent_job_id is not None, change))


def _line(**changes: object) -> Change:
    """Changes the line of a call, or of an attempt."""
    return lambda well: replace(
        well, lines=_first(well.lines, lambda line: bool(line.get("job")), lambda line: {**line, **changes})
    )


def _silent(service: str) -> Change:
    """Nothing of what a service has logged."""
    return lambda well: replace(well, lines=[line for line in well.lines if line["service"] != service])


def _span(change: Callable[[Span], object]) -> Change:
    """Changes the span of an attempt that has failed."""

    def changed(each: Received) -> Received:
        span = Span.FromString(each.span.SerializeToString())
        change(span)
        return each._replace(span=span)

    return lambda well: replace(
        well, spans=_first(well.spans, lambda each: each.attributes.get("rowcall.outcome") == "failed", changed)
    )


def _no_error(span: Span) -> None:
    span.status.code = SpanStatus.STATUS_CODE_UNSET


def _another_code(span: Span) -> None:
    [code] = [said for said in span.attributes if said.key == "rpc.response.status_code"]
    code.value.string_value = "OK"


def _no_parent(span: Span) -> None:
    span.parent_span_id = b"12345678"


def _turned_round(span: Span) -> None:
    span.end_time_unix_nano = span.start_time_unix_nano - 1


def _cut(span: Span) -> None:
    span.trace_id = span.trace_id[:8]


def _another_trace(span: Span) -> None:
    span.trace_id = bytes.fromhex(_OTHER.trace_id)


CHANGES: Final[Mapping[str, Change]] = {
    "a job of another trace": _row(traceparent=_OTHER.traceparent),
    "a job of no trace": _row(traceparent=None),
    "a job of another tenant": _row(tenant="somebody"),
    "a job that ended otherwise": _row(state=JobState.JOB_STATE_SUCCEEDED),
    "a job with an attempt too many": _row(attempt=9),
    "a job that is not there": lambda well: replace(well, rows=well.rows[1:]),
    "a child of nobody in its trace": _adopted,
    "an error of a job without its trace": _row(error=Status(code=Code.INVALID_ARGUMENT).SerializeToString()),
    "an error of an attempt without its trace": _attempt(error=Status(code=Code.UNAVAILABLE).SerializeToString()),
    "an attempt without a span": _attempt(span_id="0123456789abcdef"),
    "an error of a caller with another trace": lambda well: replace(
        well, asked=_first(well.asked, lambda each: bool(each.told), lambda each: replace(each, told=[_OTHER.trace_id]))
    ),
    "an error of a caller without a trace": lambda well: replace(
        well, asked=_first(well.asked, lambda each: bool(each.told), lambda each: replace(each, told=[""]))
    ),
    "a line of another trace": _line(trace_id=_OTHER.trace_id),
    "a line without a trace": _line(trace_id=None),
    "no line of a gateway": _silent("gateway"),
    "no line of a worker": _silent("worker"),
    "a line of a handler's thread without its job": lambda well: replace(
        well,
        lines=_first(
            well.lines, lambda line: line.get("logger") == family.SCOPE, lambda line: {"event": line["event"]}
        ),
    ),
    "an act that is not in the audit": lambda well: replace(well, audit=well.audit[1:]),
    "an act of nobody": lambda well: replace(well, audit=[*well.audit, well.audit[0]]),
    "an act without a trace": lambda well: replace(
        well, audit=_first(well.audit, bool, lambda each: each._replace(trace_id=None))
    ),
    "an incident of another trace": lambda well: replace(
        well, incidents=_first(well.incidents, bool, lambda each: each._replace(trace_id=_OTHER.trace_id))
    ),
    "an incident in the trace of another failure": lambda well: replace(
        well,
        incidents=_first(well.incidents, bool, lambda each: each._replace(method="rowcall.probe.v1.ProbeService/Run")),
    ),
    "a span without its error": _span(_no_error),
    "a span with another code than its row": _span(_another_code),
    "a span below nothing": _span(_no_parent),
    "a span that ended before it began": _span(_turned_round),
    "a span whose trace is cut": _span(_cut),
    "a span of another trace": _span(_another_trace),
    "a span that came twice": lambda well: replace(well, spans=[*well.spans, well.spans[0]]),
    "a call without a span": lambda well: replace(
        well, spans=[each for each in well.spans if each.span.kind != Span.SPAN_KIND_SERVER]
    ),
    "a submission without a span": lambda well: replace(
        well, spans=[each for each in well.spans if each.span.kind != Span.SPAN_KIND_PRODUCER]
    ),
}
