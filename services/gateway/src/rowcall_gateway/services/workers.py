"""rowcall.v1.WorkerService: the worker processes that live, and what they run. Each shard has those that are registered there;
here a process is one worker, whatever shards it drains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from rowcall.names import operation_name
from rowcall.queue.model import WorkerJob, WorkerRow
from rowcall.v1.worker_service_pb2 import (
    GetWorkerRequest,
    GetWorkerResponse,
    ListWorkersRequest,
    ListWorkersResponse,
    RunningJob,
    Worker,
    WorkerRegistration,
    WorkerState,
)
from rowcall.v1.worker_service_pb2_grpc import WorkerServiceServicer
from rowcall.validation import Validator
from rowcall_gateway.calls.drafts import check_text
from rowcall_gateway.edge import incoming
from rowcall_gateway.edge.access import Rights
from rowcall_gateway.edge.failures import not_known
from rowcall_gateway.resources import timestamp
from rowcall_gateway.services.tokens import text_of, text_token
from rowcall_gateway.shards.everywhere import ask_everywhere
from rowcall_gateway.shards.links import Links, ShardLink
from rowcall_gateway.shards.looks import Looks

_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000


class LivingWorkers(WorkerServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(self, validator: Validator, links: Links, rights: Rights) -> None:
        self._validator = validator
        self._links = links
        self._rights = rights
        self._every: Looks[Sequence[WorkerRow]] = Looks(links, _workers)

    async def ListWorkers(  # noqa: N802
        self,
        request: ListWorkersRequest,
        context: Any,  # noqa: ARG002
    ) -> ListWorkersResponse:
        """The workers that live, by name."""
        self._validator.check(request)
        after = text_of(request.page_token)
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        _, answers = await self._every.answers(incoming.current())
        if not answers.given:
            raise answers.unreachable()
        found = [each for each in _merged(answers.given) if each.name > after]
        return ListWorkersResponse(
            workers=found[:size],
            next_page_token=text_token(found[size - 1].name) if len(found) > size else "",
            unreachable_shards=sorted(answers.missing),
        )

    async def GetWorker(self, request: GetWorkerRequest, context: Any) -> GetWorkerResponse:  # noqa: ARG002, N802
        """One worker, with the jobs of the caller's tenant that it runs, to admins all of them."""
        self._validator.check(request)
        check_text(request.name, "name")
        call = incoming.current()
        tenant = None if self._rights.sees_every_tenant(call.principal) else call.tenant

        async def look(link: ShardLink) -> _Seen:
            rows = await link.admin.workers(request.name)
            return _Seen(rows, await link.admin.worker_jobs(request.name, tenant) if rows else ())

        answers = await ask_everywhere(self._links, look, call)
        found = _merged({shard: seen.rows for shard, seen in answers.given.items()})
        if not found:
            raise answers.unreachable() if answers.missing else not_known("worker", request.name)
        [worker] = found
        jobs = chain.from_iterable(seen.jobs for seen in answers.given.values())
        worker.jobs.extend(_job(job) for job in sorted(jobs, key=lambda job: job.started_at))
        return GetWorkerResponse(worker=worker, unreachable_shards=sorted(answers.missing))


@dataclass(frozen=True, slots=True)
class _Seen:
    """A worker as one shard has it."""

    rows: Sequence[WorkerRow]
    jobs: Sequence[WorkerJob]


async def _workers(link: ShardLink) -> Sequence[WorkerRow]:
    return await link.admin.workers()


def _merged(rows: Mapping[str, Iterable[WorkerRow]]) -> list[Worker]:
    """Each process once, by name."""
    by_name: dict[str, list[tuple[str, WorkerRow]]] = {}
    for shard, found in sorted(rows.items()):
        for row in found:
            by_name.setdefault(row.name, []).append((shard, row))
    return [_worker(by_name[name]) for name in sorted(by_name)]


def _worker(known: Sequence[tuple[str, WorkerRow]]) -> Worker:
    """A process, of what the shards have of it."""
    rows = [row for _, row in known]
    # What the process is it says at each registration alike, but for its start, which each shard reckons by its own clock.
    [one, *_] = rows
    steady = all(row.steady for row in rows)
    return Worker(
        name=one.name,
        host=one.host or "",
        version=one.version or "",
        release=one.release or "",
        state=_state(steady),
        start_time=timestamp(min(row.up_since for row in rows)),
        slots=one.slots or 0,
        slots_taken=sum(row.slots_taken or 0 for row in rows),
        threads=one.threads or 0,
        threads_taken=sum(row.threads_taken or 0 for row in rows),
        queues=sorted({queue for row in rows for queue in row.queues or ()}),
        every_queue=any(row.every_queue for row in rows),
        methods=sorted({method for row in rows for method in row.methods}),
        suspects_only=one.apart,
        registrations=[_registration(shard, row) for shard, row in known],
    )


def _registration(shard: str, row: WorkerRow) -> WorkerRegistration:
    return WorkerRegistration(
        shard=shard,
        id=str(row.worker_id),
        state=_state(row.steady),
        register_time=timestamp(row.registered_at),
        renew_time=timestamp(row.renewed_at),
        steady_time=timestamp(row.steady_since),
        expire_time=timestamp(row.lease_until),
        loop_lag=_duration(row.loop_lag),
        running=(row.slots_taken or 0) + (row.threads_taken or 0),
    )


def _job(job: WorkerJob) -> RunningJob:
    return RunningJob(
        name=operation_name(job.tenant, job.job_id),
        method=job.method,
        queue=job.queue,
        attempt=job.attempt,
        start_time=timestamp(job.started_at),
    )


def _state(steady: bool) -> WorkerState.ValueType:
    return WorkerState.WORKER_STATE_STEADY if steady else WorkerState.WORKER_STATE_SUSPECTED


def _duration(span: timedelta | None) -> Duration | None:
    if span is None:
        return None
    made = Duration()
    made.FromTimedelta(span)
    return made
